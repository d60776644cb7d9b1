"""Section `scrape`: what a page of 20,000 series costs control, and for how long a worker's requests wait for its part.

The figures are those of two workers, told in frames as they tell them; the page is made of them as for a Prometheus
that asks for OpenMetrics. A few seconds, without a network.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from agent.control.admin.metrics.of_control import GAUGES, Figures
from agent.control.admin.metrics.page import render
from agent.control.admin.metrics.text import OPEN_METRICS
from agent.control.workers.fleet import PORTION
from agent.control.workers.ledger import Ledger
from agent.proxy.report import state
from agent.proxy.report.signals import Signals
from agent.proxy.worker import Worker
from scripts.benchmark.goal import Goal
from scripts.benchmark.run import Run

SERVICES: Final = 45
EDGES: Final = 20
"""Of each."""
WORKERS: Final = 2


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    series: int
    size_bytes: int
    control_ms: float
    """Processor time, of a page with what workers tell for it: median."""
    render_ms: float
    """Of that, what is done in a thread."""
    heard_ms: float
    """The longest piece of it on control's loop, to read a frame."""
    worker_ms: float
    """The longest piece in a worker, on its loop; processor time."""
    observe_us: float
    """To count a request."""


def measure(run: Run) -> Result:
    """Some dozens of pages."""
    rounds = 40 if not run.quick else 10
    rng = random.Random(1)
    workers = [_worker(rng) for _ in range(WORKERS)]
    told: list[tuple[float, float, float]] = []
    pieces: list[float] = []
    page = b""
    for _ in range(rounds):
        ledger = Ledger()
        heard_s, longest_s = 0.0, 0.0
        for pid, worker in enumerate(workers):
            services: dict[str, Any] = {}
            metrics: dict[str, Any] = {}
            for frame in _portions(worker, pieces):
                began = time.process_time()
                metrics = msgspec.msgpack.decode(frame)
                services.update(metrics["services"])
                took_s = time.process_time() - began
                heard_s, longest_s = heard_s + took_s, max(longest_s, took_s)
            began = time.process_time()
            ledger.hear(pid, {**metrics, "services": services})
            figures = ledger.figures()
            heard_s += time.process_time() - began
        began = time.process_time()
        page, _ = render(figures, Figures(dict.fromkeys(GAUGES, 1.0), {}, [], []), OPEN_METRICS)
        told.append((heard_s, time.process_time() - began, longest_s))
    for worker in workers:
        worker.close()
    return Result(
        series=sum(1 for line in page.splitlines() if not line.startswith(b"#")),
        size_bytes=len(page),
        control_ms=median(heard + rendered for heard, rendered, _ in told) * 1e3,
        render_ms=median(rendered for _, rendered, _ in told) * 1e3,
        heard_ms=median(longest for *_, longest in told) * 1e3,
        worker_ms=median(sorted(pieces)[-rounds * WORKERS :]) * 1e3,
        observe_us=_observe_us(),
    )


def _worker(rng: random.Random) -> Worker:
    """One that has seen something."""
    worker = Worker(1)
    for number in range(SERVICES):
        name = f"service-{number}.production"
        worker.table.stage(name, number + 1, [], {}, 0.0)
        worker.table.commit(number + 1)
        signals = worker.table.services[name].stats.signals
        for edge in range(EDGES):
            key = (edge % 2 == 0, f"caller-{edge}.production", f"rules[{edge % 3}]", f"v{edge % 2}", f"host-{edge}")
            for _ in range(200):
                signals.observe(key, 200, rng.lognormvariate(-4, 1.5), 5.0)
            signals.remember(key, f"{rng.getrandbits(128):032x}", 0.02, time.time())
    return worker


def _portions(worker: Worker, pieces: list[float]) -> Iterator[bytes]:
    after: str | None = ""
    while after is not None:
        began = time.process_time()
        told = state.metrics(worker, after, PORTION)
        frame = msgspec.msgpack.encode(told)
        pieces.append(time.process_time() - began)
        after = told["next"]
        yield frame


def _observe_us() -> float:
    signals, count = Signals(), 300_000
    key = (True, "shop.production", "rules[0]", "v1", "web-2")
    first, caller, route, version, peer = key
    gc.collect()
    began = time.process_time()
    for _ in range(count):
        signals.observe((first, caller, route, version, peer), 200, 0.0123, 5.0)
    took_s = time.process_time() - began
    began = time.process_time()
    for _ in range(count):
        _nothing((first, caller, route, version, peer), 200, 0.0123)
    return (took_s - (time.process_time() - began)) / count * 1e6


def _nothing(*_: object) -> None:
    """What a call costs."""


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"A scrape: {result.series:,} series, {result.size_bytes / 1e6:.1f} MB")
    for heading in ("", "ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("control, processor time in all", f"{result.control_ms:.1f}")
    table.add_row("of that in a thread", f"{result.render_ms:.1f}")
    table.add_row("longest piece on control's loop", f"{result.heard_ms:.2f}")
    table.add_row("longest piece on a worker's loop", f"{result.worker_ms:.2f}")
    table.add_row("to count a request (µs)", f"{result.observe_us:.2f}")
    console.print(table)


def goals(result: Result) -> list[Goal]:
    """What is promised."""
    each = 20_000 / result.series
    return [
        Goal("a scrape of 20,000 series, control's processor", result.control_ms * each, 50, "ms"),
        Goal("for how long a scrape holds a worker up", result.worker_ms, 5, "ms"),
    ]
