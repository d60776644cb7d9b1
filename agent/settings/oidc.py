"""`[people.oidc]` as what verifies tokens takes it."""

from __future__ import annotations

from typing import Final

from agent.settings.document import Oidc
from policies.kinds.authn.document import Authn, Provider
from policies.kinds.authn.source import Source
from policies.language.duration import age_s
from policies.language.plain import Flaw

SKEW: Final = "5s"
"""By which clocks may differ."""


def document(oidc: Oidc) -> Authn:
    """What tokens of people are judged by. Raises Flaw."""
    provider = Provider(
        issuer=oidc.issuer,
        audiences=oidc.audiences,
        algorithms=oidc.algorithms,
        jwks_url=oidc.jwks_url,
        discover=not oidc.jwks_url,
    )
    made = Authn(providers=(provider,), skew=SKEW)
    made.check()
    return made


def sources(oidc: Oidc) -> list[tuple[Source, float]]:
    """Where keys for them are fetched from, and for how long they count (s); none where nobody makes them."""
    if not oidc.issuer:
        return []
    provider = document(oidc).providers[0]
    source = provider.source
    return [] if source is None else [(source, age_s(provider.max_age))]


def check(oidc: Oidc, listens: bool) -> None:
    """Raises Flaw with the path of the setting."""
    here = "$.people.oidc"
    if not oidc.issuer:
        if oidc != Oidc():
            raise Flaw(f"{here}.issuer", "missing: who makes the tokens, such as https://login.corp.example")
        return
    if not listens:
        raise Flaw(here, "nobody could show a token: people.listen says where they may")
    if not oidc.audiences:
        raise Flaw(f"{here}.audiences", "missing: any token of this issuer's, for whatever it was made, would count")
    if not oidc.view and not oidc.tap and not oidc.operate:
        raise Flaw(here, "lets nobody in; view, tap and operate say which values of the claim do")
    if not oidc.name or not oidc.path or not all(oidc.path):
        raise Flaw(f"{here}.{'claim' if oidc.name else 'name'}", "the name of a claim, such as groups")
    try:
        document(oidc)
    except Flaw as flaw:
        raise Flaw(flaw.path.replace("$.providers[0]", here), flaw.reason) from None
