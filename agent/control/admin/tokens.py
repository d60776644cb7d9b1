"""People who show an agent's API a token of OpenID Connect: who it is, and what he may, by the agent's own settings.

Laws
- A token is judged by what judges those of requests (policies.kinds.authn), by keys that are fetched for it.
  Algorithms, audience and times are the settings', and each request is judged anew: what has expired ends at once.
- What gives a role is the claim as its issuer wrote it: a text that looks like a list is a text.
- Who shows a certificate besides has said twice who he is, and is nobody; so has who shows two tokens, one of them in
  the cookie of a browser that has logged in (`login`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from agent.identity.verdict import BY_TOKEN, Refused, Visitor
from agent.settings.document import Oidc
from agent.settings.oidc import document
from policies.kinds.authn.decide import Invalid, Unjudged, compile
from policies.kinds.authn.keyring import Keyring
from policies.request import Request

MAX_NAME: Final = 200
ANYBODY: Final = "*"


class Unknown(Refused):
    """Nobody can say yet who it is."""


class TokenPeople:
    """Those whom a provider vouches for."""

    def __init__(self, oidc: Oidc, keyring: Keyring, clock: Callable[[], float]) -> None:
        self._oidc = oidc
        self._clock = clock
        self._rules = compile(document(oidc), keyring=keyring)

    def visitor(self, authorization: str | None) -> Visitor | Refused:
        """Who asks, by the field that a request has of that name."""
        shown = {} if authorization is None else {"authorization": authorization}
        try:
            claims = self._rules.claims(Request(headers=shown), self._clock())
        except Unjudged as unjudged:
            return Unknown(str(unjudged))
        except Invalid as invalid:
            return Refused(f"this token does not count here: {invalid}")
        if claims is None or authorization is None:
            return Refused("nobody: show a certificate (`shoal login`), or a token as `authorization: Bearer`")
        said = claims_of(authorization.partition(" ")[2].strip(" "))
        name, oidc = said.get(self._oidc.name), self._oidc
        if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
            return Refused(f"its claim {oidc.name} names nobody; people.oidc.name in agent.toml says which one does")
        held = _values(said, oidc.path)
        operates, taps, views = (_any(held, wanted) for wanted in (oidc.operate, oidc.tap, oidc.view))
        if not (operates or taps or views):
            where = ".".join(oidc.path)
            return Refused(
                f"{name} has nothing in {where} that lets him in; [people.oidc] in agent.toml says what does"
            )
        return Visitor(f"{BY_TOKEN}{name}", operates, "{role} in [people.oidc] of agent.toml", operates or taps)


def claims_of(token: str) -> dict[str, Any]:
    """Of one that counts."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def _values(said: Any, path: Sequence[str]) -> frozenset[str]:
    """The texts at a place: one, or a list."""
    for name in path:
        said = said.get(name) if isinstance(said, dict) else None
    return frozenset(each for each in (said if isinstance(said, list) else [said]) if isinstance(each, str))


def _any(held: frozenset[str], wanted: Sequence[str]) -> bool:
    return ANYBODY in wanted or not held.isdisjoint(wanted)
