# mypyc: compiled
"""The cookie that keeps a browser on its side of a split: who has none is given one, and drawn by it at once, so that
the first request lands where all others will."""

from __future__ import annotations

import random

import msgspec

from policies.decision import Decision, Forward
from policies.kinds.route.rules import StickySplit
from policies.kinds.route.split import Split
from policies.language.duration import seconds

_PREFIXED = ("__Secure-", "__Host-")


class Issuer:
    """Of one rule."""

    __slots__ = ("_attributes", "_name")

    def __init__(self, sticky: StickySplit) -> None:
        self._name = sticky.cookie
        age_s = int(seconds(sticky.ttl))
        self._attributes = (
            "; Path=/"
            + (f"; Max-Age={age_s}" if age_s else "")
            + "; HttpOnly"
            + ("; Secure" if self._name.startswith(_PREFIXED) else "")
            + "; SameSite=Lax"
        )

    def begin(self, split: Split[Decision], rng: random.Random) -> Decision:
        """Where a user belongs from now on, with the cookie that says so."""
        value = f"{rng.getrandbits(128):032x}"
        decision = split.sticky(value)
        forward = decision.action
        assert isinstance(forward, Forward)
        action = msgspec.structs.replace(forward, cookie=f"{self._name}={value}{self._attributes}")
        return Decision(decision.rule, f"{decision.reason}; gets the cookie {self._name}", action, decision.shares)


def issuer(sticky: StickySplit) -> Issuer | None:
    """None where no cookie is given."""
    return Issuer(sticky) if sticky.cookie and sticky.issue else None
