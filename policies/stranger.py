# mypyc: compiled
"""Who calls from another trust domain. It is none of our services, whatever it is called there: no pattern covers it,
and what asks for callers takes it for nobody that is known, unless it asks for strangers."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

_SCHEME: Final = "spiffe://"


class Stranger:
    """One of them, as it was proven."""

    __slots__ = ("domain", "gateway", "id", "whose")

    def __init__(self, id: str, gateway: str) -> None:
        self.id = id
        """Its SPIFFE id."""
        self.domain = id[len(_SCHEME) :].partition("/")[0]
        """Its trust domain."""
        self.whose = _SCHEME + self.domain
        """What it is counted as: no service of ours has such a name."""
        self.gateway = gateway
        """The host of ours whose agent has let it in."""

    def is_among(self, names: Set[str]) -> bool:
        """Whether any of these names it, or all of its trust domain: `spiffe://us.shoal/svc/shop`, `us.shoal`."""
        return self.domain in names or self.id in names
