"""Section `kinds`: what each kind of policy costs a request, on and off.

One agent, the job of peers.py, and one more document at a time, put and taken away by etcd as an operator would. Each
round measures every document once, with and without it in turn; the median of the differences is quoted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from registry.etcd.server import free_port
from registry.keys import Keys
from scripts.benchmark import mesh, traffic, villain
from scripts.benchmark.agents import running_agent, swap
from scripts.benchmark.cpu import WARM_S, measure_once
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import answers, saturate
from scripts.benchmark.peer import Proxy
from scripts.benchmark.processes import running, wait_until
from scripts.benchmark.run import Run

DOCUMENTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ratelimit, one limit": ("ratelimit", {"limits": [{"name": "all", "rate": 1_000_000}]}),
    "ratelimit, one a caller": (
        "ratelimit",
        {"limits": [{"name": "each", "rate": 1_000_000, "key": {"header": "x-user"}}]},
    ),
    "breaker of the service": ("breaker", {"trip": {"consecutive": 5, "error_percent": 50}}),
    "breaker of each instance": ("breaker", {"endpoint": {"trip": {"consecutive": 5, "error_percent": 50}}}),
    "outlier": ("outlier", {"consecutive_5xx": 5, "latency_factor": 5}),
    "fault that matches nothing": (
        "fault",
        {
            "expires": "2099-01-01T00:00:00Z",
            "rules": [{"match": {"headers": {"x-chaos": "yes"}}, "abort": {"status": 503}}],
        },
    ),
    "shadow, 1% copied": ("shadow", {"copies": [{"version": "v2", "percent": 1}]}),
    "shadow, 10% compared": (
        "shadow",
        {"compare": {"primary": "v1", "candidate": {"version": "v2"}, "percent": 10}},
    ),
    **{
        f"shadow, 10% to one that {name}": (
            "shadow",
            {"copies": [{"to": f"{name}.production", "percent": 10, "timeout": "1s"}]},
        )
        for name in villain.NAMES
    },
    "shed, adaptive": ("shed", {"adaptive": {"initial": 500}}),
    "retry with hedging": ("retry", {"attempts": 2, "hedge": {"after": "p99"}}),
}
"""What is switched on, by the name of its row."""


class Kind(msgspec.Struct, frozen=True):
    """A document over all rounds."""

    name: str
    without_us: list[float]
    with_us: list[float]
    without_p99_us: list[int]
    with_p99_us: list[int]

    @property
    def more_us(self) -> float:
        """What it costs a request: the median of the rounds' differences."""
        return median(b - a for a, b in zip(self.without_us, self.with_us, strict=True))


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    kinds: list[Kind]


def measure(run: Run) -> Result:
    """Off, on, off, on."""
    wanted = {name: found for name, found in DOCUMENTS.items() if os.environ.get("SHOAL_BENCH_KIND", "") in name}
    found = {name: Kind(name, [], [], [], []) for name in wanted}
    keys = Keys()
    with (
        run.upstream() as upstream,
        serving_etcd(run.workdir) as url,
        _villains(run) as ports,
    ):
        bad = {keys.instance(f"{name}.production", "bad"): mesh.instance(port) for name, port in ports.items()}
        mesh.put_all(url, mesh.pets_and_films(keys, upstream) | bad)
        base = mesh.pets_policies()
        with running_agent(run.workdir, "kinds", url, cpus=run.proxy_cpus) as agent:
            wait_until("shoal", lambda: answers(agent.outbound), agent.program)
            proxy = Proxy("shoal", agent.outbound, agent.program, agent.roles)
            saturate(proxy.port, WARM_S, run.workdir, run.load_cpus)
            for number in range(1, run.rounds + 1):
                for name, (kind, document) in wanted.items():
                    off = measure_once(run, proxy, run.seconds(6, 2))
                    swap(agent, url, {keys.policy(kind, traffic.HOST): mesh.as_json(document)})
                    on = measure_once(run, proxy, run.seconds(6, 2))
                    found[name].without_us.append(off.cpu_us)
                    found[name].without_p99_us.append(off.p99_us)
                    found[name].with_us.append(on.cpu_us)
                    found[name].with_p99_us.append(on.p99_us)
                    before = mesh.as_json(base[kind]) if kind in base else None
                    swap(agent, url, {keys.policy(kind, traffic.HOST): before})
                    run.say(f"kinds {number}/{run.rounds} {name}: {on.cpu_us - off.cpu_us:+.1f} us")
    return Result(list(found.values()))


@contextmanager
def _villains(run: Run) -> Iterator[dict[str, int]]:
    """Services that behave badly: their ports."""
    ports = {name: free_port() for name in villain.NAMES}
    argv = [sys.executable, "-m", "scripts.benchmark.villain", *map(str, ports.values())]
    with running("villain", argv, run.workdir / "villain.log", cpus=run.load_cpus):
        yield ports


def goals(result: Result) -> list[Goal]:
    """None was promised."""
    return []


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title="CPU per request with one more document, µs (median of the rounds)")
    for heading in ("", "without", "with", "more", "p99 without", "p99 with"):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind in result.kinds:
        table.add_row(
            kind.name,
            f"{median(kind.without_us):.1f}",
            f"{median(kind.with_us):.1f}",
            f"{kind.more_us:+.1f}",
            f"{median(kind.without_p99_us):,.0f}",
            f"{median(kind.with_p99_us):,.0f}",
        )
    console.print(table)
