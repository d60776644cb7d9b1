"""Section `idle`: what an idle keep-alive connection costs in memory.

A fresh process that never saw load (what load leaves in an allocator would be handed to the idle connections for
free), and connections that each had one request answered and stay open: first 1,000, so that everything that is made
once is made; then 5,000 more. How much resident memory of the process tree grew by those, divided by their number. What
the kernel holds for a socket is the same for all and not counted.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmark import traffic
from scripts.benchmark.goal import Goal
from scripts.benchmark.peer import Peer, Proxy
from scripts.benchmark.processes import Failed
from scripts.benchmark.run import RIVAL, Run, ratio
from scripts.benchmark.upstream import Upstream

FIRST = 1000
CONNECTIONS = 5000
SETTLE_S = 2.0


class Weight(msgspec.Struct, frozen=True):
    """One round of one peer."""

    name: str
    before_bytes: int
    after_bytes: int

    @property
    def each_bytes(self) -> float:
        """Per connection."""
        return (self.after_bytes - self.before_bytes) / CONNECTIONS


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    connections: int
    weights: list[Weight]


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """So many connections, each with one request behind it."""
    with ExitStack() as stack:
        for request in islice(cycle(traffic.requests()), count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            sock.sendall(request)
            answer = b""
            while not answer.endswith(traffic.BODY):
                if not (more := sock.recv(65536)):
                    raise Failed(f"a connection was closed after {answer[:200]!r}")
                answer += more
        yield


def weigh(run: Run, peer: Peer, upstream: Upstream) -> Weight:
    """One fresh peer."""
    with peer.start(run.site(upstream)) as proxy, idle_connections(proxy.port, FIRST):
        before = settled_bytes(proxy)
        with idle_connections(proxy.port, CONNECTIONS):
            after = settled_bytes(proxy)
    weight = Weight(peer.name, before, after)
    run.say(f"idle {peer.name}: {weight.each_bytes:,.0f} bytes a connection")
    return weight


def settled_bytes(proxy: Proxy) -> int:
    """Resident memory of the tree, once what the last requests brought about is done."""
    time.sleep(SETTLE_S)
    return sum(proxy.program.rss_bytes().values())


def measure(run: Run) -> Result:
    """Interleaved rounds, each peer alone."""
    with run.upstream() as upstream:
        weights = [weigh(run, peer, upstream) for _ in range(run.rounds) for peer in run.peers]
    return Result(CONNECTIONS, weights)


def goals(_: Result) -> list[Goal]:
    """None: the figure is quoted beside the others."""
    return []


def show(result: Result, console: Console) -> None:
    """The table."""
    each = {
        name: median(w.each_bytes for w in result.weights if w.name == name)
        for name in dict.fromkeys(w.name for w in result.weights)
    }
    table = Table(title=f"{result.connections:,} idle keep-alive connections (median of the rounds)")
    for heading in ("", "bytes each", f"of {RIVAL}'s", f"MiB with {FIRST:,}"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, size in each.items():
        before = median(w.before_bytes for w in result.weights if w.name == name) / 1024**2
        table.add_row(name, f"{size:,.0f}", ratio(size, each.get(RIVAL, 0)), f"{before:.0f}")
    console.print(table)
