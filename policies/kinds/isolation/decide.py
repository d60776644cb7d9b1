# mypyc: compiled
"""`isolation`: whether there is such a service, for whoever calls. `*` is every service of this mesh, and nobody who is
none: who calls from another trust domain sees what names him, or his trust domain."""

from __future__ import annotations

from typing import Final

from policies.decision import Denied
from policies.kind import ANYWHERE, Scope
from policies.kinds.isolation.document import Isolation, strangers
from policies.language.names import candidates, parse_pattern
from policies.language.trust import SCHEME
from policies.request import RequestView

NOBODY: Final = "callers that are not known"
_NAME_BYTES: Final = 320
"""No service's name is longer."""


def compile(document: Isolation, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    ours = [parse_pattern(text) for text in document.allow if not text.startswith(SCHEME)]
    others = [strangers(text) for text in document.allow if text.startswith(SCHEME)]
    return Compiled(frozenset(ours), frozenset(others), document.anonymous, scope)


class Compiled:
    """Of one level."""

    __slots__ = ("_allowed", "_anonymous", "_key", "_service", "_strangers")

    def __init__(self, allowed: frozenset[str], strangers: frozenset[str], anonymous: bool, scope: Scope) -> None:
        self._allowed = allowed
        self._strangers = strangers
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
        caller, stranger = request.caller, request.stranger
        if self.sees(caller) if stranger is None else stranger.is_among(self._strangers):
            return None
        whom = stranger.id if stranger is not None else caller or NOBODY
        reason = f"{self._service} is not there for {whom}, by policies/isolation/{self._key}"
        return Denied(404, reason, hidden=True)
