"""Section `stream`: a body of 1 GiB each way: is memory flat, and how fast does it go?

One peer at a time, a fresh process each round, warmed by a small body. The kernel keeps the high-water mark of resident
memory (VmHWM, reset before the body), so that no peak falls between two samples. The client reads and writes as fast as
it can, in chunks of a mebibyte.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmark.goal import Goal
from scripts.benchmark.peer import Peer, Proxy
from scripts.benchmark.processes import Failed
from scripts.benchmark.run import US, Run, ratio
from scripts.benchmark.upstream import Upstream

GIB = 1024**3
MIB = 1024**2
YARDSTICK = "nginx"
WARM_BYTES = 8 * MIB


class Passage(msgspec.Struct, frozen=True):
    """One body through one peer."""

    name: str
    way: str
    """"down" (a response) or "up" (a request)."""
    bytes_per_s: float
    grown_bytes: int
    """How much more memory was resident at the worst moment than before."""
    cpu_s: float


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    size_bytes: int
    passages: list[Passage]


def transfer(run: Run, port: int, way: str, size: int) -> float:
    """Move a body in a process of its own, apart from the proxy's core. Returns the seconds that it took."""
    pinned = ["taskset", "-c", ",".join(map(str, run.load_cpus))] if run.load_cpus else []
    argv = [*pinned, sys.executable, "-m", "scripts.benchmark.haul", str(port), way, str(size)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"a body of {size} bytes, {way}: {done.stderr[-500:]}")
    return float(json.loads(done.stdout))


def measure_way(run: Run, proxy: Proxy, way: str, size: int) -> Passage:
    """One body, one way."""
    transfer(run, proxy.port, way, WARM_BYTES)
    before = sum(proxy.program.rss_bytes().values())
    cpu_before = sum(proxy.program.cpu_s().values())
    proxy.program.forget_peak()
    seconds = transfer(run, proxy.port, way, size)
    grown = sum(proxy.program.peak_bytes().values()) - before
    cpu = sum(proxy.program.cpu_s().values()) - cpu_before
    passage = Passage(proxy.name, way, size / seconds, grown, cpu)
    run.say(f"stream {proxy.name} {way}: {passage.bytes_per_s / MIB:.0f} MiB/s, {grown / MIB:+.1f} MiB")
    return passage


def measure(run: Run) -> Result:
    """Interleaved rounds, each peer alone."""
    size = int(run.seconds(GIB, GIB // 8))
    passages: list[Passage] = []
    with run.upstream() as upstream:
        for _ in range(run.rounds):
            for peer in run.peers:
                passages += measure_peer(run, peer, upstream, size)
    return Result(size, passages)


def measure_peer(run: Run, peer: Peer, upstream: Upstream, size: int) -> list[Passage]:
    """Both ways through one fresh peer."""
    with peer.start(run.site(upstream)) as proxy:
        return [measure_way(run, proxy, way, size) for way in ("down", "up")]


def goals(result: Result) -> list[Goal]:
    """Flat memory."""
    grown = [p.grown_bytes / MIB for p in result.passages if p.name == US]
    return [Goal("memory growth by a large body", max(grown), 16, "MiB")] if grown else []


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"A body of {result.size_bytes / MIB:.0f} MiB (median throughput, worst growth of the rounds)")
    for heading in ("", "way", "MiB/s", f"of {YARDSTICK}'s", "memory grew MiB", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("", "way") else "right")
    for way in ("down", "up"):
        yardstick = _speed(result, YARDSTICK, way)
        for name in dict.fromkeys(p.name for p in result.passages):
            mine = [p for p in result.passages if (p.name, p.way) == (name, way)]
            speed = _speed(result, name, way)
            grown = max(p.grown_bytes for p in mine) / MIB
            cpu = f"{median(p.cpu_s for p in mine):.2f}"
            table.add_row(name, way, f"{speed / MIB:,.0f}", ratio(speed, yardstick), f"{grown:.1f}", cpu)
    console.print(table)


def _speed(result: Result, name: str, way: str) -> float:
    speeds = [p.bytes_per_s for p in result.passages if (p.name, p.way) == (name, way)]
    return median(speeds) if speeds else 0.0
