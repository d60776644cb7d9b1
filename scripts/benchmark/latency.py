"""Section `latency`: how long a request takes at half of what the slower of Shoal and Envoy can do.

Saturation is measured first, in this run. Then each round paces the peers one after the other at one and the same rate
(pace.py: an open loop, latency counted from when a request was due), and the upstream by itself as the floor of the
method. Percentiles are the medians of those of the rounds, so that one disturbed round does not decide. CPU per
request at that rate is quoted too: at saturation a proxy serves many sockets for each time it is woken, and at half of
it fewer, so the two figures differ.
"""

from __future__ import annotations

from collections import Counter
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmark.goal import Goal
from scripts.benchmark.load import pace, percentiles, saturate
from scripts.benchmark.peer import Proxy
from scripts.benchmark.processes import Program
from scripts.benchmark.run import RIVAL, US, Run, ratio

AT = (0.5, 0.9, 0.99, 0.999)
FLOOR = "no proxy"


class Round(msgspec.Struct, frozen=True):
    """One round of one peer, microseconds."""

    requests: int
    p50_us: int
    p90_us: int
    p99_us: int
    p999_us: int
    late_p99_us: int
    """How late the generator itself sent, which is part of the latencies."""
    cpu_us: float
    """CPU per request at this rate; 0 for the floor."""


class Spread(msgspec.Struct, frozen=True):
    """A peer over all rounds."""

    name: str
    rounds: list[Round]

    def middle(self, figure: str) -> float:
        """The median of the rounds."""
        return float(median(getattr(each, figure) for each in self.rounds))

    def extremes(self, figure: str) -> str:
        """The least and the most of the rounds."""
        values = [getattr(each, figure) for each in self.rounds]
        return f"{min(values):,}..{max(values):,}"


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    rate: float
    """Requests a second, for every peer."""
    saturation: dict[str, float]
    """Requests a second that each can do."""
    spreads: list[Spread]


def measure_once(run: Run, port: int, rate: float, program: Program | None) -> Round:
    """One round of one peer."""
    before_s = total_cpu_s(program)
    paced = pace(port, rate, run.seconds(10, 2), run.load_cpus)
    cpu_us = (total_cpu_s(program) - before_s) / paced.requests * 1e6
    p50, p90, p99, p999 = percentiles(Counter(paced.latencies_us), AT)
    (late,) = percentiles(Counter(paced.late_us), [0.99])
    return Round(paced.requests, p50, p90, p99, p999, late, cpu_us)


def total_cpu_s(program: Program | None) -> float:
    """Of the whole tree so far; 0 for no program."""
    return sum(program.cpu_s().values()) if program else 0.0


def measure(run: Run) -> Result:
    """Saturation, then paced rounds."""
    rounds: dict[str, list[Round]] = {}
    with run.proxies() as (upstream, proxies):
        saturation = {proxy.name: saturation_of(run, proxy) for proxy in proxies}
        rate = half_of_the_slower(saturation)
        targets: list[tuple[str, int, Program | None]] = [(p.name, p.port, p.program) for p in proxies]
        targets.append((FLOOR, upstream.v1[0], None))
        for number in range(1, run.rounds + 1):
            for name, port, program in targets:
                seen = measure_once(run, port, rate, program)
                run.say(f"latency {number}/{run.rounds} {name}: p99 {seen.p99_us} us")
                rounds.setdefault(name, []).append(seen)
    return Result(rate, saturation, [Spread(name, each) for name, each in rounds.items()])


def saturation_of(run: Run, proxy: Proxy) -> float:
    """Requests a second: the median of three short loads."""
    return median(saturate(proxy.port, run.seconds(4, 1), run.workdir, run.load_cpus).rate for _ in range(3))


def half_of_the_slower(saturation: dict[str, float]) -> float:
    """Half of what the slower of Shoal and Envoy can do; of the slowest of all, where these two are not measured."""
    pair = [rate for name, rate in saturation.items() if name in (US, RIVAL)]
    return 0.5 * min(pair or saturation.values())


def goals(result: Result) -> list[Goal]:
    """No longer than Envoy's."""
    p99_us = {spread.name: spread.middle("p99_us") for spread in result.spreads}
    if not {US, RIVAL} <= p99_us.keys():
        return []
    return [Goal(f"p99 at half saturation, of {RIVAL}'s", p99_us[US] / p99_us[RIVAL], 1, "x")]


def show(result: Result, console: Console) -> None:
    """The table."""
    theirs = next((spread for spread in result.spreads if spread.name == RIVAL), None)
    table = Table(title=f"Latency at {result.rate:,.0f}/s, half of the slower one's saturation (µs, medians)")
    for heading in ("", "p50", "p90", "p99", "min..max", f"of {RIVAL}'s", "p99.9", "CPU", "saturation/s", "late p99"):
        table.add_column(heading, justify="left" if not heading else "right")
    for spread in result.spreads:
        saturation = result.saturation.get(spread.name)
        table.add_row(
            spread.name,
            *(f"{spread.middle(figure):,.0f}" for figure in ("p50_us", "p90_us", "p99_us")),
            spread.extremes("p99_us"),
            ratio(spread.middle("p99_us"), theirs.middle("p99_us")) if theirs and saturation else "-",
            f"{spread.middle('p999_us'):,.0f}",
            f"{spread.middle('cpu_us'):.1f}" if saturation else "",
            f"{saturation:,.0f}" if saturation else "",
            f"{spread.middle('late_p99_us'):,.0f}",
        )
    console.print(table)
