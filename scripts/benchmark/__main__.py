"""scripts/bench: chooses sections and peers, runs them, prints tables and JSON."""

from __future__ import annotations

import signal
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from scripts.benchmark import (
    authz,
    convergence,
    cpu,
    events,
    goal,
    idle,
    kinds,
    latency,
    live,
    machine,
    mtls,
    page,
    readers,
    scale,
    scrape,
    stream,
    telemetry,
    tree,
)
from scripts.benchmark.machine import Machine
from scripts.benchmark.peer import Peer
from scripts.benchmark.peers import choose
from scripts.benchmark.processes import Failed, allow_descriptors
from scripts.benchmark.run import Run

WIDTH: Final = 120
"""Of tables that go to a file."""


class Section(StrEnum):
    """What can be asked for."""

    CPU = "cpu"
    LATENCY = "latency"
    CONVERGENCE = "convergence"
    SCALE = "scale"
    STREAM = "stream"
    IDLE = "idle"
    KINDS = "kinds"
    AUTHZ = "authz"
    EVENTS = "events"
    MTLS = "mtls"
    SCRAPE = "scrape"
    TELEMETRY = "telemetry"
    LIVE = "live"
    PAGE = "page"
    READERS = "readers"
    TREE = "tree"
    ALL = "all"


MEASURES: Final[dict[Section, ModuleType]] = {
    Section.CPU: cpu,
    Section.LATENCY: latency,
    Section.CONVERGENCE: convergence,
    Section.SCALE: scale,
    Section.STREAM: stream,
    Section.IDLE: idle,
    Section.KINDS: kinds,
    Section.AUTHZ: authz,
    Section.EVENTS: events,
    Section.MTLS: mtls,
    Section.SCRAPE: scrape,
    Section.TELEMETRY: telemetry,
    Section.LIVE: live,
    Section.PAGE: page,
    Section.READERS: readers,
    Section.TREE: tree,
}
"""Each with `measure(run) -> result`, `show(result, console)` and `goals(result)`; in the order in which they run."""


def introduce(console: Console, here: Machine, peers: list[Peer]) -> None:
    """The machine, and what each peer does."""
    console.print(
        f"{here.date}, {here.cpu}, {here.cores} cores, {here.memory_gib} GiB, Linux {here.kernel}, "
        f"Python {here.python}, Shoal {here.revision}, {here.build}",
        highlight=False,
    )
    table = Table(title="What was on")
    for heading in ("", "version", "on each request"):
        table.add_column(heading)
    for peer in peers:
        table.add_row(peer.name, peer.version(), peer.on)
    console.print(table)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def bench(
    sections: Annotated[list[Section], typer.Argument(help="What to measure.", show_default="all")] = [Section.ALL],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; medians are quoted.")] = 5,
    peer: Annotated[list[str] | None, typer.Option(help="Only these proxies: shoal, envoy, haproxy, nginx.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every figure of every round here.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short rounds: for a first look, not for quoting.")] = False,
) -> None:
    """Measure Shoal beside Envoy, HAProxy and nginx: same upstream, same load, one worker each."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    allow_descriptors()
    wanted = [section for section in MEASURES if Section.ALL in sections or section in sections]
    peers = choose(peer or [])
    here = machine.describe()
    introduce(console, here, peers)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as workdir:
        run = Run(Path(workdir), rounds, quick, tuple(peers), Console(stderr=True))
        for section in wanted:
            results[section.value] = MEASURES[section].measure(run)
            MEASURES[section].show(results[section.value], console)
    goals = [each for section in wanted for each in MEASURES[section].goals(results[section.value])]
    goal.show(goals, console)
    if json is not None:
        what = {each.name: {"version": each.version(), "on": each.on} for each in peers}
        whole = {"machine": here, "quick": quick, "rounds": rounds, "peers": what, "sections": results, "goals": goals}
        json.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")


def main() -> None:
    """The process: every way out of it ends what was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(prog_name="scripts/bench")
    except Failed as failure:
        sys.exit(f"scripts/bench: {failure}")


if __name__ == "__main__":
    main()
