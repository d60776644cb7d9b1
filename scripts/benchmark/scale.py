"""Section `scale`: 10,000 instances of 1,000 services and 1,000 policies: memory, cold start, the cost of a flap.

- Cold start: from starting `shoal agent`, with nothing on its disk, to the first answer from an instance.
- Memory: resident, of the worker and of control, after the flaps; and the most that it ever was.
- A flap: an instance is deleted and put again, at a fixed rate. CPU of the agent per change, less what the agent uses
  when nothing happens; in the large mesh and in one of 100 instances, round by round in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from scripts.benchmark import mesh
from scripts.benchmark.agents import Agent, running_agent
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import answers
from scripts.benchmark.processes import wait_until
from scripts.benchmark.run import Run, ratio
from scripts.benchmark.upstream import Upstream

MIB: Final = 1024**2
CHANGES_PER_S: Final = 20.0
SETTLE_S: Final = 1.0


class Mesh(msgspec.Struct, frozen=True):
    """A size of mesh."""

    name: str
    services: int
    instances_each: int


LARGE: Final = Mesh("large", 1000, 10)
SMALL: Final = Mesh("small", 10, 10)


class Found(msgspec.Struct, frozen=True):
    """What an agent of one mesh showed."""

    mesh: Mesh
    cold_start_s: float
    rss_bytes: dict[str, int]
    """By role."""
    peak_bytes: dict[str, int]
    change_cpu_ms: list[float]
    """Per change of the flapping instance, by round."""
    idle_cpu_ms_per_s: list[float]
    """What was taken off: CPU of an agent in which nothing happens."""


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    meshes: list[Found]


class Flapping:
    """An agent in a mesh, and what was measured so far."""

    def __init__(self, run: Run, size: Mesh, url: str, agent: Agent, cold_start_s: float) -> None:
        self.run = run
        self.size = size
        self.url = url
        self.agent = agent
        self.cold_start_s = cold_start_s
        self.change_ms: list[float] = []
        self.idle_ms_per_s: list[float] = []

    def round(self) -> None:
        """Rest, then flap, for the same time."""
        seconds = self.run.seconds(10, 3)
        idle_s = self._cpu_over(lambda: time.sleep(seconds)) / (seconds + SETTLE_S)
        changes = int(seconds * CHANGES_PER_S)
        spent_s = self._cpu_over(lambda: trio.run(self._flap, changes))
        spent_s -= idle_s * (seconds + SETTLE_S)
        self.idle_ms_per_s.append(idle_s * 1000)
        self.change_ms.append(spent_s / changes * 1000)
        self.run.say(f"scale {self.size.name}: {self.change_ms[-1]:.2f} ms a change, idle {idle_s * 1000:.1f} ms/s")

    def _cpu_over(self, act: Callable[[], object]) -> float:
        """CPU of the agent while something is done, and a settling second after it."""
        before = sum(self.agent.program.cpu_s().values())
        act()
        time.sleep(SETTLE_S)
        return sum(self.agent.program.cpu_s().values()) - before

    async def _flap(self, changes: int) -> None:
        """Delete and put one instance in turn."""
        keys = Keys(self.size.name)
        key, value = next(iter(mesh.crowd(keys, 1, 1).items()))
        store = EtcdStore(EtcdSettings(endpoints=(self.url,)))
        due = trio.current_time()
        try:
            for number in range(changes):
                await (store.put(key, value) if number % 2 else store.delete(key))
                due += 1 / CHANGES_PER_S
                await trio.sleep_until(due)
        finally:
            await store.aclose()

    def found(self) -> Found:
        """What was measured, and the memory as it is now."""
        roles = self.agent.roles()
        program = self.agent.program
        return Found(
            self.size,
            self.cold_start_s,
            by_role(roles, program.rss_bytes()),
            by_role(roles, program.peak_bytes()),
            self.change_ms,
            self.idle_ms_per_s,
        )


def by_role(roles: dict[int, str], sizes: dict[int, int]) -> dict[str, int]:
    """The largest process of each role."""
    largest: dict[str, int] = {}
    for pid, size in sizes.items():
        role = roles.get(pid, "other")
        largest[role] = max(largest.get(role, 0), size)
    return largest


@contextmanager
def started(run: Run, size: Mesh, url: str, upstream: Upstream) -> Iterator[Flapping]:
    """A mesh of this size, and an agent that has just answered its first request."""
    keys = Keys(size.name)
    mesh.put_all(url, mesh.crowd(keys, size.services, size.instances_each) | mesh.pets_and_films(keys, upstream))
    began = time.monotonic()
    with running_agent(run.workdir, size.name, url, mesh=size.name, wait=False) as agent:
        wait_until(f"agent {size.name}", lambda: answers(agent.outbound), agent.program, timeout_s=120)
        cold_start_s = time.monotonic() - began
        run.say(f"scale {size.name}: first routed request after {cold_start_s:.2f} s")
        yield Flapping(run, size, url, agent, cold_start_s)


def measure(run: Run) -> Result:
    """A large mesh and a small one, on one etcd."""
    with ExitStack() as stack:
        upstream = stack.enter_context(run.upstream())
        url = stack.enter_context(serving_etcd(run.workdir))
        meshes = [stack.enter_context(started(run, size, url, upstream)) for size in (LARGE, SMALL)]
        time.sleep(run.seconds(10, 3))
        for _ in range(run.rounds):
            for flapping in meshes:
                flapping.round()
        return Result([flapping.found() for flapping in meshes])


def goals(result: Result) -> list[Goal]:
    """Memory and cold start of the large mesh; a flap costs what it costs in the small one."""
    large, small = result.meshes
    flap = median(large.change_cpu_ms) / median(small.change_cpu_ms)
    return [
        Goal("worker in the large mesh", large.rss_bytes["worker"] / MIB, 150, "MiB"),
        Goal("control in the large mesh", large.rss_bytes["control"] / MIB, 250, "MiB"),
        Goal("cold start to the first routed request", large.cold_start_s, 5, "s"),
        Goal("a flap in the large mesh, of one in the small", flap, 1.3, "x"),
    ]


def show(result: Result, console: Console) -> None:
    """The table."""
    large, small = result.meshes
    table = Table(title="By the size of the mesh (CPU: medians of the rounds, control and worker together)")
    for heading in ("", large.mesh.name, small.mesh.name, "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, ask in rows().items():
        mine, theirs = ask(large), ask(small)
        table.add_row(name, f"{mine:,.2f}", f"{theirs:,.2f}", ratio(mine, theirs))
    console.print(table)


def rows() -> dict[str, Callable[[Found], float]]:
    """What is told of each mesh."""
    return {
        "instances": lambda found: found.mesh.services * found.mesh.instances_each,
        "cold start to the first routed request, s": lambda found: found.cold_start_s,
        "worker, MiB": lambda found: found.rss_bytes["worker"] / MIB,
        "worker at its peak, MiB": lambda found: found.peak_bytes["worker"] / MIB,
        "control, MiB": lambda found: found.rss_bytes["control"] / MIB,
        "control at its peak, MiB": lambda found: found.peak_bytes["control"] / MIB,
        "one change of a flapping instance, CPU ms": lambda found: median(found.change_cpu_ms),
        "nothing happening, CPU ms a second": lambda found: median(found.idle_cpu_ms_per_s),
    }
