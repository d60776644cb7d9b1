"""Section `latency`: how long a request takes at half of what the slower of Shoal and Envoy can do.

Saturation is measured first, in this run. Then each round paces the peers one after the other at one and the same rate
(pace.py: an open loop, latency counted from when a request was due), and the upstream by itself as the floor of the
method. The latencies of all rounds are pooled. CPU per request at that rate is quoted too: at saturation a proxy serves
many sockets for each time it is woken, and at half of it fewer, so the two figures differ.
"""

from __future__ import annotations

from collections import Counter
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmark.load import pace, percentiles, saturate
from scripts.benchmark.peer import Proxy
from scripts.benchmark.processes import Program
from scripts.benchmark.run import RIVAL, US, Run, ratio

AT = (0.5, 0.9, 0.99, 0.999)
FLOOR = "no proxy"


class Spread(msgspec.Struct, frozen=True):
    """The latencies of one peer, microseconds."""

    name: str
    requests: int
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    late_p99_us: int
    """How late the generator itself sent, which is part of the latencies."""
    cpu_us: float
    """CPU per request at this rate; 0 for the floor."""


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    rate: float
    """Requests a second, for every peer."""
    saturation: dict[str, float]
    """Requests a second that each can do."""
    spreads: list[Spread]


class Pool:
    """What one peer showed, over all rounds."""

    def __init__(self, name: str, port: int, program: Program | None) -> None:
        self.name = name
        self.port = port
        self.program = program
        self.latencies: Counter[int] = Counter()
        self.late: Counter[int] = Counter()
        self.cpu_s = 0.0

    def pace(self, run: Run, rate: float) -> int:
        """One more round. Returns its p99 in microseconds."""
        before = self._cpu_s()
        paced = pace(self.port, rate, run.seconds(10, 2), run.load_cpus)
        self.cpu_s += self._cpu_s() - before
        self.latencies.update(paced.latencies_us)
        self.late.update(paced.late_us)
        return percentiles(Counter(paced.latencies_us), [0.99])[0]

    def _cpu_s(self) -> float:
        return sum(self.program.cpu_s().values()) if self.program else 0.0

    def spread(self) -> Spread:
        """The whole of it."""
        requests = self.latencies.total()
        p50, p90, p99, p999 = percentiles(self.latencies, AT)
        late = percentiles(self.late, [0.99])[0]
        return Spread(self.name, requests, p50, p90, p99, p999, late, self.cpu_s / requests * 1e6)


def measure(run: Run) -> Result:
    """Saturation, then paced rounds."""
    with run.proxies() as (upstream, proxies):
        saturation = {proxy.name: saturation_of(run, proxy) for proxy in proxies}
        rate = half_of_the_slower(saturation)
        pools = [Pool(proxy.name, proxy.port, proxy.program) for proxy in proxies]
        pools.append(Pool(FLOOR, upstream.v1[0], None))
        for number in range(1, run.rounds + 1):
            for pool in pools:
                run.say(f"latency {number}/{run.rounds} {pool.name}: p99 {pool.pace(run, rate)} us")
    return Result(rate, saturation, [pool.spread() for pool in pools])


def saturation_of(run: Run, proxy: Proxy) -> float:
    """Requests a second: the median of three short loads."""
    return median(saturate(proxy.port, run.seconds(4, 1), run.workdir, run.load_cpus).rate for _ in range(3))


def half_of_the_slower(saturation: dict[str, float]) -> float:
    """Half of what the slower of Shoal and Envoy can do; of the slowest of all, where these two are not measured."""
    pair = [rate for name, rate in saturation.items() if name in (US, RIVAL)]
    return 0.5 * min(pair or saturation.values())


def show(result: Result, console: Console) -> None:
    """The table."""
    theirs = next((spread for spread in result.spreads if spread.name == RIVAL), None)
    table = Table(
        title=f"Latency at {result.rate:,.0f} requests/s, half of the slower one's saturation (µs, open loop)"
    )
    for heading in ("", "p50", "p90", "p99", "p99.9", f"p99 of {RIVAL}'s", "CPU µs", "saturation/s", "sent late p99"):
        table.add_column(heading, justify="left" if not heading else "right")
    for spread in result.spreads:
        table.add_row(
            spread.name,
            *(f"{value:,}" for value in (spread.p50_us, spread.p90_us, spread.p99_us, spread.p999_us)),
            ratio(spread.p99_us, theirs.p99_us) if theirs and spread.name != FLOOR else "-",
            f"{spread.cpu_us:.1f}" if spread.cpu_us else "",
            f"{result.saturation[spread.name]:,.0f}" if spread.name in result.saturation else "",
            f"{spread.late_p99_us:,}",
        )
    console.print(table)
