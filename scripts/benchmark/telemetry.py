"""Section `telemetry`: what it costs a request that it is seen: metrics that are scraped, access records, traces.

One agent that writes records and one that does not, the job of peers.py, and a collector that takes spans. A row is
measured off and on in turn, with the same requests; those of traces have no `traceparent`, as they come from browsers:
one that says that its caller samples it is followed, and would be recorded whatever the share.

Quoted are the median of the rounds' differences, and the interval in which their mean is by 95%. Twenty rounds are what
figures are quoted from (`--rounds 20`).
"""

from __future__ import annotations

import os
import re
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import sqrt
from statistics import mean, median, stdev
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from registry.etcd.server import free_port
from registry.keys import Keys
from scripts.benchmark import mesh, traffic
from scripts.benchmark.agents import Agent, running_agent, swap
from scripts.benchmark.cpu import WARM_S, measure_once
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import answers, saturate
from scripts.benchmark.peer import Proxy
from scripts.benchmark.processes import running, wait_until
from scripts.benchmark.run import Run
from scripts.benchmark.turns import Turns

TRACES: Final[dict[str, dict[str, Any]]] = {
    "traces, none": {"share": 0, "errors": False},
    "traces, 1%": {"share": 0.01, "errors": False},
    "traces, 1%, and errors": {"share": 0.01},
    "traces, 1%, errors and slow ones": {"share": 0.01, "slower": "1s"},
    "traces, 100%": {"share": 1},
}
"""Documents, by the name of the row."""
METRICS: Final = "metrics, scraped every second"
RECORDS: Final = "access records"
SCRAPE_S: Final = 1.0
QUOTED: Final = "traces, 1%"
ROUNDS_OF_T: Final = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 10: 2.26, 20: 2.09}
"""Student's t for 95%, by how many rounds there are at least."""


class Cost(Turns, frozen=True):
    """Of a row, over all rounds."""

    @property
    def interval_us(self) -> tuple[float, float]:
        """In which the mean of the differences is, by 95%."""
        more = self.more_us
        if len(more) < 2:
            return more[0], more[0]
        t = next(t for rounds, t in sorted(ROUNDS_OF_T.items(), reverse=True) if len(more) >= rounds)
        half = t * stdev(more) / sqrt(len(more))
        return mean(more) - half, mean(more) + half


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    costs: list[Cost]


def measure(run: Run) -> Result:
    """Off, on, off, on."""
    keys, wanted = Keys(), os.environ.get("SHOAL_BENCH_TELEMETRY", "")
    with ExitStack() as stack:
        upstream = stack.enter_context(run.upstream())
        url = stack.enter_context(serving_etcd(run.workdir))
        mesh.put_all(url, mesh.pets_and_films(keys, upstream))
        collector = stack.enter_context(_collector(run))
        sink = f'[[records.sinks]]\nto = "otlp+http://127.0.0.1:{collector}"\nkinds = ["traces"]'
        agents = [
            stack.enter_context(
                running_agent(run.workdir, name, url, cpus=run.proxy_cpus, more=sink, access_log=name == "recording")
            )
            for name in ("silent", "recording")
        ]
        silent, recording = [_ready(run, agent) for agent in agents]
        rows: dict[str, Callable[[], tuple[float, int]]] = {
            METRICS: lambda: _scraped(run, agents[0], silent),
            RECORDS: lambda: _once(run, recording),
        }
        begun = _untraced(run)
        for name, document in TRACES.items():
            rows[name] = _traced(begun, agents[0], silent, url, keys.policy("trace", traffic.HOST), document)
        costs = [Cost(name, [], [], [], []) for name in rows if re.search(wanted, name)]
        for number in range(1, run.rounds + 1):
            for cost in costs:
                off_us, off_p99_us = _once(begun if cost.name in TRACES else run, silent)
                on_us, on_p99_us = rows[cost.name]()
                cost.off_us.append(off_us)
                cost.on_us.append(on_us)
                cost.off_p99_us.append(off_p99_us)
                cost.on_p99_us.append(on_p99_us)
                run.say(f"telemetry {number}/{run.rounds} {cost.name}: {cost.more_us[-1]:+.2f} us")
    return Result(costs)


def _ready(run: Run, agent: Agent) -> Proxy:
    wait_until("shoal", lambda: answers(agent.outbound), agent.program)
    proxy = Proxy(f"shoal {agent.host}", agent.outbound, agent.program, agent.roles)
    saturate(proxy.port, WARM_S, run.workdir, run.load_cpus)
    return proxy


def _untraced(run: Run) -> Run:
    """With requests of nobody's trace: they stand in a folder of their own, for wrk."""
    folder = run.workdir / "untraced"
    folder.mkdir()
    said = f"Traceparent: {traffic.HEADERS['Traceparent']}\\r\\n"
    script = traffic.wrk_script()
    assert said in script
    (folder / "requests.lua").write_text(script.replace(said, ""))
    return msgspec.structs.replace(run, workdir=folder)


def _once(run: Run, proxy: Proxy) -> tuple[float, int]:
    found = measure_once(run, proxy, run.seconds(6, 2))
    return found.cpu_us, found.p99_us


def _scraped(run: Run, agent: Agent, proxy: Proxy) -> tuple[float, int]:
    over = threading.Event()
    thread = threading.Thread(target=_scrape_for_ever, args=(agent.admin, over))
    thread.start()
    try:
        return _once(run, proxy)
    finally:
        over.set()
        thread.join()


def _scrape_for_ever(port: int, over: threading.Event) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not over.wait(SCRAPE_S):
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            answer.read()


def _traced(
    run: Run, agent: Agent, proxy: Proxy, url: str, key: str, document: dict[str, Any]
) -> Callable[[], tuple[float, int]]:
    """What measures with a document in force, and takes it away again."""

    def measured() -> tuple[float, int]:
        swap(agent, url, {key: mesh.as_json(document)})
        try:
            return _once(run, proxy)
        finally:
            swap(agent, url, {key: None})

    return measured


@contextmanager
def _collector(run: Run) -> Iterator[int]:
    """One that takes everything, on the cores of the load: its port."""
    port = free_port()
    argv = [sys.executable, "-m", "scripts.benchmark.swallow", str(port)]
    with running("collector", argv, run.workdir / "collector.log", cpus=run.load_cpus):
        yield port


def goals(result: Result) -> list[Goal]:
    """One trace in a hundred, in a microsecond a request."""
    return [
        Goal(f"{cost.name}, µs a request", median(cost.more_us), 1.0, "µs")
        for cost in result.costs
        if cost.name in (QUOTED, METRICS)
    ]


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title="CPU per request that is seen, µs (medians of the rounds; the interval of the mean by 95%)")
    for heading in ("", "off", "on", "more", "95%", "min..max", "p99 off", "p99 on"):
        table.add_column(heading, justify="left" if not heading else "right")
    for cost in result.costs:
        more, (least, most) = cost.more_us, cost.interval_us
        table.add_row(
            cost.name,
            f"{median(cost.off_us):.1f}",
            f"{median(cost.on_us):.1f}",
            f"{median(more):+.2f}",
            f"{least:+.2f}..{most:+.2f}",
            f"{min(more):+.2f}..{max(more):+.2f}",
            f"{median(cost.off_p99_us):,.0f}",
            f"{median(cost.on_p99_us):,.0f}",
        )
    console.print(table)
