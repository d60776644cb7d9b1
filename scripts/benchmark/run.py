"""One run of the bench: what the sections share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from scripts.benchmark import machine
from scripts.benchmark.peer import Peer, Proxy, Site
from scripts.benchmark.upstream import Upstream, serving

US = "shoal"
RIVAL = "envoy"


class Run(msgspec.Struct, frozen=True):
    """Where, how long and with whom."""

    workdir: Path
    rounds: int
    quick: bool
    peers: tuple[Peer, ...]
    console: Console
    """For progress; results are printed by the caller."""

    def seconds(self, full: float, quick: float) -> float:
        """A duration, by whether the run is a quick one."""
        return quick if self.quick else full

    def say(self, text: str) -> None:
        """One line of progress."""
        self.console.print(f"[dim]{text}[/dim]", highlight=False)

    @property
    def load_cpus(self) -> tuple[int, ...]:
        """The cores for load and upstream."""
        return machine.placement()[1]

    @property
    def proxy_cpus(self) -> tuple[int, ...]:
        """The core of the proxy."""
        return machine.placement()[0]

    def site(self, upstream: Upstream) -> Site:
        """A place for a peer."""
        return Site(self.workdir, self.proxy_cpus, upstream)

    @contextmanager
    def upstream(self) -> Iterator[Upstream]:
        """The upstreams, answering."""
        with serving(self.workdir, self.load_cpus) as upstream:
            yield upstream

    @contextmanager
    def proxies(self) -> Iterator[tuple[Upstream, list[Proxy]]]:
        """Every peer, running side by side in front of one upstream."""
        with ExitStack() as stack:
            upstream = stack.enter_context(self.upstream())
            site = self.site(upstream)
            yield upstream, [stack.enter_context(peer.start(site)) for peer in self.peers]


def ratio(mine: float, theirs: float) -> str:
    """Such as `0.62 x`."""
    return f"{mine / theirs:.2f} x" if theirs else "-"
