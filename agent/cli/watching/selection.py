"""Which changes somebody wants to see. Pure."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from policies.language.names import matches

Sort = Literal["policies", "instances", "agents", "mesh"]
"""`mesh`: what people say of all of it, such as who may be what."""
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)


class Selection(msgspec.Struct, frozen=True):
    """Without anything: every change."""

    pattern: str = ""
    """A service or a pattern: instances of these services, and policies that count for one of them."""
    kinds: frozenset[str] = frozenset()
    """Of policies."""
    only: frozenset[Sort] = frozenset()

    def has_policy(self, kind: str, pattern: str) -> bool:
        """Whether a document, or what is said of one, is wanted."""
        return self._has("policies") and (not self.kinds or kind in self.kinds) and self._overlaps(pattern)

    def has_instance(self, service: str) -> bool:
        """Whether an instance of a service, or its health, is wanted."""
        return self._has("instances") and (not self.pattern or matches(self.pattern, service))

    def has_other(self, sort: Sort) -> bool:
        """Whether what is of no service is wanted: hardly by who asks for one, unless he says so."""
        return self._has(sort) and (not self.pattern or sort in self.only)

    def _has(self, sort: Sort) -> bool:
        if self.only:
            return sort in self.only
        return not self.kinds or sort == "policies"

    def _overlaps(self, pattern: str) -> bool:
        return not self.pattern or matches(self.pattern, pattern) or matches(pattern, self.pattern)
