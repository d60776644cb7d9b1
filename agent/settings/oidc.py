"""`[people.oidc]` as what verifies tokens takes it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from agent.settings.document import Oidc
from policies.kinds.authn.document import Authn, Provider
from policies.kinds.authn.source import Source
from policies.language.duration import age_s
from policies.language.plain import Flaw
from policies.language.url import check_url

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
    _check_login(oidc, here)
    try:
        document(oidc)
    except Flaw as flaw:
        raise Flaw(flaw.path.replace("$.providers[0]", here), flaw.reason) from None


def _check_login(oidc: Oidc, here: str) -> None:
    """Of browsers. Raises Flaw."""
    if not oidc.client_id:
        if oidc.client_secret_file or oidc.redirect or oidc.scopes != Oidc().scopes:
            raise Flaw(f"{here}.client_id", "missing: as what the provider knows this agent, for browsers that log in")
        return
    if oidc.client_id not in oidc.audiences:
        raise Flaw(f"{here}.audiences", f"has to name {oidc.client_id}, for whom the tokens of a login are made")
    if oidc.client_secret_file and not oidc.client_secret_file.startswith("/"):
        raise Flaw(f"{here}.client_secret_file", "a whole path, such as /etc/shoal/oidc-secret")
    if "openid" not in oidc.scopes:
        raise Flaw(f"{here}.scopes", "has to name openid, without which there is no ID token")
    if any(
        not scope or not scope.isascii() or not scope.isprintable() or set(scope) & set(' "\\') for scope in oidc.scopes
    ):
        raise Flaw(f"{here}.scopes", "words such as openid, profile, groups")
    try:
        check_url(oidc.redirect)
        parts = urlsplit(oidc.redirect)
        sound = parts.scheme == "https" and not parts.path and not parts.query
    except ValueError:
        sound = False
    if not sound:
        raise Flaw(f"{here}.redirect", "how browsers call this agent, such as https://mesh.corp.example:15443")


def called(oidc: Oidc) -> str:
    """The name in `redirect`; empty where there is none."""
    return urlsplit(oidc.redirect).hostname or ""
