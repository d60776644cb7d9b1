"""Section `cpu`: what a proxied request costs, and how many a second one core can do.

Each round takes the peers one after the other (A B C D A B C D): wrk drives one as fast as it answers; user and system
time of its process tree before and after, a settling second included (logs and metrics are formatted late), divided by
the requests answered. The median over the rounds is quoted.
"""

from __future__ import annotations

import time
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmark.goal import Goal
from scripts.benchmark.load import saturate
from scripts.benchmark.peer import Proxy
from scripts.benchmark.processes import Failed
from scripts.benchmark.run import RIVAL, US, Run, ratio

SETTLE_S = 1.0
WARM_S = 1.0
PASSING = "evaluator"
"""The role of processes that end when nobody has asked them for a while: what proves documents in Rego does."""


class Round(msgspec.Struct, frozen=True):
    """One measurement of one peer."""

    requests: int
    cpu_us: float
    """Per request, all processes."""
    roles_us: dict[str, float]
    """The same, by role of the process, where the peer has roles."""
    rate: float
    """Requests a second."""
    p99_us: int


class Cost(msgspec.Struct, frozen=True):
    """A peer over all rounds."""

    name: str
    rounds: list[Round]

    @property
    def cpu_us(self) -> float:
        """CPU per request, microseconds: the median of the rounds."""
        return median(r.cpu_us for r in self.rounds)

    @property
    def rate(self) -> float:
        """Requests a second at saturation: the median of the rounds."""
        return median(r.rate for r in self.rounds)

    def role_us(self, role: str) -> float:
        """The part of one role of process."""
        return median(r.roles_us.get(role, 0) for r in self.rounds)


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    costs: list[Cost]


def measure_once(run: Run, proxy: Proxy, seconds: float) -> Round:
    """One round of one peer. Raises Failed when one of its processes came or went under the load, but for
    those that do so when they are idle."""
    before, roles = proxy.program.cpu_s(), proxy.role_of()
    seen = saturate(proxy.port, seconds, run.workdir, run.load_cpus)
    time.sleep(SETTLE_S)
    after = proxy.program.cpu_s()
    roles |= proxy.role_of()
    if any(roles.get(pid) != PASSING for pid in before.keys() ^ after.keys()):
        raise Failed(f"{proxy.name}: its processes changed from {sorted(before)} to {sorted(after)} under load")
    each_us = {pid: (after[pid] - before.get(pid, 0.0)) / seen.requests * 1e6 for pid in after}
    return Round(seen.requests, sum(each_us.values()), proxy.by_role(each_us), seen.rate, seen.p99_us)


def measure(run: Run) -> Result:
    """Interleaved rounds."""
    costs: dict[str, list[Round]] = {}
    with run.proxies() as (_, proxies):
        for proxy in proxies:
            saturate(proxy.port, WARM_S, run.workdir, run.load_cpus)
        for number in range(1, run.rounds + 1):
            for proxy in proxies:
                seen = measure_once(run, proxy, run.seconds(8, 2))
                run.say(f"cpu {number}/{run.rounds} {proxy.name}: {seen.cpu_us:.1f} us, {seen.rate:.0f}/s")
                costs.setdefault(proxy.name, []).append(seen)
    return Result([Cost(name, rounds) for name, rounds in costs.items()])


def goals(result: Result) -> list[Goal]:
    """At most 0.7 of Envoy's."""
    cost_us = {cost.name: cost.cpu_us for cost in result.costs}
    if not {US, RIVAL} <= cost_us.keys():
        return []
    return [Goal(f"CPU per request, of {RIVAL}'s", cost_us[US] / cost_us[RIVAL], 0.7, "x")]


def show(result: Result, console: Console) -> None:
    """The table."""
    theirs = next((cost for cost in result.costs if cost.name == RIVAL), None)
    table = Table(title="CPU per proxied request, one core at saturation (median of the rounds)")
    for heading in ("", "µs", "min..max", f"of {RIVAL}'s", "requests/s", "wrk p99 ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    for cost in result.costs:
        each = [r.cpu_us for r in cost.rounds]
        table.add_row(
            cost.name,
            f"{cost.cpu_us:.1f}",
            f"{min(each):.1f}..{max(each):.1f}",
            ratio(cost.cpu_us, theirs.cpu_us) if theirs else "-",
            f"{cost.rate:,.0f}",
            f"{median(r.p99_us for r in cost.rounds) / 1000:.2f}",
        )
        for role in sorted({role for r in cost.rounds for role in r.roles_us}):
            table.add_row(f"  {role}", f"{cost.role_us(role):.1f}", "", "", "", "")
    console.print(table)
