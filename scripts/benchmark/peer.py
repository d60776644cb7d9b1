"""What a proxy is to the sections of the bench.

All of them get the same job: requests for `pets.production`, routed by rules, 90% to two instances of v1 and 10% to two
of v2, the least loaded of them; with timeouts, one retry elsewhere, metrics and a line of log a request, as far as the
peer can. What it cannot is left out and said in `on`, which favours the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from scripts.benchmark.processes import Program
from scripts.benchmark.upstream import Upstream


class Site(msgspec.Struct, frozen=True):
    """Where a peer is put: its files, its core, what it forwards to."""

    workdir: Path
    cpus: tuple[int, ...]
    upstream: Upstream


class Proxy(msgspec.Struct, frozen=True):
    """A peer that runs, and answers on its port."""

    name: str
    port: int
    program: Program
    roles: Callable[[], dict[int, str]] | None = None
    """What each process of the tree is for, where that is worth telling apart."""

    def role_of(self) -> dict[int, str]:
        """The role of each process; empty when the peer has no roles."""
        return dict(self.roles()) if self.roles is not None else {}

    def by_role(self, costs: dict[int, float]) -> dict[str, float]:
        """Costs per process summed per role; empty when the peer has no roles."""
        names = self.role_of()
        if not names:
            return {}
        summed: dict[str, float] = {}
        for pid, cost in costs.items():
            role = names.get(pid, "other")
            summed[role] = summed.get(role, 0) + cost
        return summed


class Peer(msgspec.Struct, frozen=True):
    """A proxy that can be started."""

    name: str
    version: Callable[[], str]
    on: str
    """What does work on each request."""
    start: Callable[[Site], AbstractContextManager[Proxy]]
