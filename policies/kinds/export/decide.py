# mypyc: compiled
"""`export`: whether a service is there for who calls from another trust domain. To others it says nothing.

Laws
- Every level that matches has to let a stranger pass. Without a document there is none to let it pass: who asks for
  strangers' sake refuses (`agent.proxy.request.walk`).
- A level that names gateways wants callers to come by one of them, and one level at least has to name some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policies.decision import Denied
from policies.kind import ANYWHERE, Scope
from policies.kinds.export.document import Export
from policies.request import RequestView

TIGHTEST: Final = Export(to=())


def gateways(levels: Sequence[Export]) -> frozenset[str]:
    """Hosts that take callers of other trust domains in, by all levels together; none where there is no level."""
    named = [frozenset(level.gateways) for level in levels if level.gateways]
    return frozenset.intersection(*named) if named else frozenset()


def compile(document: Export, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    return Compiled(frozenset(document.to), scope)


class Compiled:
    """Of one level."""

    __slots__ = ("_key", "_service", "_to")

    def __init__(self, to: frozenset[str], scope: Scope) -> None:
        self._to = to
        self._key = scope.key
        self._service = scope.service

    def decide(self, request: RequestView) -> Denied | None:
        """By who calls, and nothing else."""
        stranger = request.stranger
        if stranger is None or stranger.is_among(self._to):
            return None
        reason = f"{self._service} is not exported to {stranger.id}, by policies/export/{self._key}"
        return Denied(421, reason, hidden=True)
