# mypyc: compiled
"""`isolation`: whether there is such a service, for whoever calls. `*` is every service, and nobody who is none."""

from __future__ import annotations

from typing import Final

from policies.decision import Denied
from policies.kind import ANYWHERE, Scope
from policies.kinds.isolation.document import Isolation
from policies.language.names import candidates, parse_pattern
from policies.request import RequestView

NOBODY: Final = "callers that are not known"
_NAME_BYTES: Final = 320
"""No service's name is longer."""


def compile(document: Isolation, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    return Compiled(frozenset([parse_pattern(text) for text in document.allow]), document.anonymous, scope)


class Compiled:
    """Of one level."""

    __slots__ = ("_allowed", "_anonymous", "_key", "_service")

    def __init__(self, allowed: frozenset[str], anonymous: bool, scope: Scope) -> None:
        self._allowed = allowed
        self._anonymous = anonymous
        self._key = scope.key
        self._service = scope.service

    def sees(self, caller: str) -> bool:
        """Whether it is there for a service; empty: for somebody who is not known to be one."""
        if not caller:
            return self._anonymous
        if len(caller) > _NAME_BYTES or "*" in caller:
            return False  # no service is called so, and a pattern is covered by itself
        return not self._allowed.isdisjoint(candidates(caller))

    def decide(self, request: RequestView) -> Denied | None:
        """By who calls, and nothing else."""
        caller = request.caller
        if self.sees(caller):
            return None
        reason = f"{self._service} is not there for {caller or NOBODY}, by policies/isolation/{self._key}"
        return Denied(404, reason, hidden=True)
