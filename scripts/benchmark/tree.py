"""Section `tree`: a question about a thousand agents, by way of some of them.

All agents are in one process, on one core, and what they say to each other is handed over without a network: the time
is processor time of all thousand together, as if each waited for all others; the bytes are those that who asks would
read. Each has counted ten of sixty services, with callers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from random import Random
from statistics import median
from typing import Any, Final

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from agent.control.asking.answering import Answering
from agent.control.asking.fanout import Fanout
from agent.control.asking.tree import Tree
from agent.control.figures.figures import Figures
from agent.control.figures.sampler import Sampler
from agent.control.identity.way import TooLarge, TooLate
from agent.figures.questions import By
from agent.frames import Peer
from registry.records import Agent
from scripts.benchmark.goal import Goal
from scripts.benchmark.processes import Failed
from scripts.benchmark.run import Run

AGENTS: Final = 1000
SERVICES: Final = 60
EACH: Final = 10
"""Services that an agent has counted, with two callers each."""
NOW: Final = 1_700_000_000
DEADLINE_S: Final = 60.0
MIB: Final = 1024 * 1024
BY: Final[tuple[By, ...]] = ("service", "edge")


class Answer(msgspec.Struct, frozen=True):
    """To one question, asked some times."""

    by: str
    seconds: list[float]
    """Of all agents together, on one core."""
    rows: int
    size_bytes: int
    """That who asked has read."""


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    answers: list[Answer]


class _Workers:
    """What the workers of an agent have counted."""

    def __init__(self, rng: Random) -> None:
        services = (f"service-{rng.randrange(SERVICES)}.production" for _ in range(EACH))
        self._told = [{"services": {name: {"edges": [_edge(rng), _edge(rng)]} for name in services}}]

    async def metrics(self) -> list[dict[str, Any]]:
        return self._told

    def counted(self) -> list[dict[str, Any]]:
        return self._told

    async def loads(self) -> dict[int, dict[str, Any]]:
        return {}

    def pids(self) -> list[int]:
        return [1]


def _edge(rng: Random) -> list[Any]:
    count, buckets = rng.randrange(1, 500), [0] * 36
    buckets[10] = count
    caller = f"caller-{rng.randrange(6)}.production"
    return [True, caller, "rules[0]", "v1", "host", [0, 0, count, 0, 0, 0], count * 0.01, buckets]


class _Mesh:
    """The agents, and the way between them."""

    def __init__(self) -> None:
        self.agents: Mapping[str, Agent] = {
            f"h{number:04}": Agent(address="10.0.0.1", inbound_port=1) for number in range(AGENTS)
        }
        self.answering = {host: Answering(host, self.agents) for host in self.agents}
        self.figures: dict[str, Figures] = {}

    async def count(self) -> None:
        """Each has a window."""
        rng = Random(1)
        for host, answering in self.answering.items():
            sampler = Sampler(_Workers(rng))
            sampler._before = {}  # as if nothing had been counted before
            await sampler.look(NOW, ended=True)
            tree = Tree(Fanout(host, self.agents, partial(self._ask, host), answering))
            self.figures[host] = Figures(sampler, tree, answering, clock=lambda: NOW + 2.0)

    async def _ask(
        self, asks: str, host: str, path: str, body: bytes, timeout_s: float, most_bytes: int = 0
    ) -> tuple[int, bytes]:
        send, receive = trio.open_memory_channel[tuple[int, bytes]](1)
        told = Peer(1, path, body, "10.0.0.1", f"spiffe://shoal.example/agent/{asks}")
        self.answering[host].asked(told, lambda *answer: send.send_nowait(answer))
        with trio.move_on_after(timeout_s):
            status, answered = await receive.receive()
            if len(answered) > most_bytes:
                raise TooLarge(f"{len(answered)} bytes")
            return status, answered
        raise TooLate(f"no answer within {timeout_s:g} s")


def measure(run: Run) -> Result:
    """Some seconds."""
    return Result(trio.run(_measured, 5 if run.quick else 20))


async def _measured(rounds: int) -> list[Answer]:
    mesh = _Mesh()
    await mesh.count()
    asking = mesh.figures["h0000"]
    found = []
    async with trio.open_nursery() as nursery:
        for answering in mesh.answering.values():
            nursery.start_soon(answering.run)
        for by in BY:
            seconds: list[float] = []
            rows = size_bytes = 0
            for _ in range(rounds):
                began = time.process_time()
                told = await asking.ask(asking.asked(60, by), DEADLINE_S)
                seconds.append(time.process_time() - began)
                if told.heard != AGENTS or told.answer is None:
                    raise Failed(f"{told.heard} of {AGENTS} agents were heard")
                rows, size_bytes = len(told.answer.rows), told.size_bytes
            found.append(Answer(by, seconds, rows, size_bytes))
        nursery.cancel_scope.cancel()
    return found


def goals(result: Result) -> list[Goal]:
    """A second, a MiB."""
    return [
        Goal(f"to ask {AGENTS:,} agents", max(median(a.seconds) for a in result.answers), 1, "s"),
        Goal("read by who asked", max(a.size_bytes for a in result.answers) / MIB, 1, "MiB"),
    ]


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"Figures of {AGENTS:,} agents, all on one core")
    for heading in ("by", "s, all of them", "min..max", "rows", "KiB read by who asked"):
        table.add_column(heading, justify="left" if heading == "by" else "right")
    for each in result.answers:
        table.add_row(
            each.by,
            f"{median(each.seconds):.2f}",
            f"{min(each.seconds):.2f}..{max(each.seconds):.2f}",
            f"{each.rows:,}",
            f"{each.size_bytes / 1024:,.0f}",
        )
    console.print(table)
