"""Section `readers`: ten people follow the requests of three hosts, which get as many as they can bear.

Three agents, a load on each, and ten `shoal logs -f` by way of the first: five filters that let everything pass, two
readers of each. One of the readers is stopped for half of the time. What is promised is no speed: each reader has each
request or its number, by host and in order; whoever reads slowly takes nothing from others; no request fails.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from registry.keys import Keys
from scripts.benchmark import mesh, traffic
from scripts.benchmark.agents import Agent, running_agent
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import Saturation, answers, saturate
from scripts.benchmark.processes import Failed, Program, running, wait_until
from scripts.benchmark.run import Run

HOSTS: Final = ("one", "two", "three")
FILTERS: Final = ((), ("--status", "2xx"), ("--method", "GET"), ("--side", "out"), ("--path", "/"))
"""Each lets all of the load pass."""
EACH: Final = 2
SETTLE_S: Final = 120.0
HAIR_S: Final = 0.005
"""By which the end of a request, told as its start and its length, may seem to be before that of the one before it."""
MISSED: Final = re.compile(r"^(\w+): (\d+) more that there was no room for$")
COUNTED: Final = re.compile(rb'^shoal_requests_total\{[^}]*service="pets.production"[^}]*\} (\d+)', re.MULTILINE)


class Shown(msgspec.Struct, frozen=True):
    """What one reader has of all requests."""

    shown: int
    missed: int
    stopped: bool


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    alone_rate: float
    """Requests a second, of all hosts together, while nobody reads."""
    rate: float
    """The same with the readers."""
    alone_us: float
    """Processor time of all agents a request."""
    us: float
    alone_p99_us: int
    p99_us: int
    """The worst of the hosts."""
    requests: int
    """While somebody read."""
    readers: list[Shown]
    settled_s: float
    """After the load, until each of them had everything or its number."""


class Load(NamedTuple):
    """What the hosts did together."""

    rate: float
    us: float
    p99_us: int


class Reader:
    """One `shoal logs -f`, and what it has written."""

    def __init__(self, program: Program, told: Path, notes: Path) -> None:
        self.program = program
        self.shown: Counter[str] = Counter()
        """By host."""
        self.missed: Counter[str] = Counter()
        self._ended: dict[str, float] = {}
        self._told, self._notes = told.open(), notes.open()
        self._rest = ["", ""]

    def look(self) -> None:
        """Take what is new. Raises Failed where it is not in order."""
        for line in self._lines(0):
            row = json.loads(line)
            host, ended = row["agent"], row["time"] + row["duration_s"]
            if ended < self._ended.get(host, 0.0) - HAIR_S:
                raise Failed(f"a reader was told of {row['request_id']} of {host} after one that ended later")
            self._ended[host] = ended
            self.shown[host] += 1
        for line in self._lines(1):
            if found := MISSED.match(line):
                self.missed[found[1]] += int(found[2])
            elif "begun anew" in line or "is missing" in line:
                raise Failed(f"a reader was told {line!r}")

    def _lines(self, which: int) -> Iterator[str]:
        text = self._rest[which] + (self._told, self._notes)[which].read()
        *whole, self._rest[which] = text.split("\n")
        yield from whole

    def follows(self) -> bool:
        """Whether it has begun."""
        return "Ctrl-C ends it" in Path(self._notes.name).read_text()

    def close(self) -> None:
        """Its files."""
        self._told.close()
        self._notes.close()


def measure(run: Run) -> Result:
    """Once without readers, once with."""
    seconds = run.seconds(12, 5)
    with ExitStack() as stack:
        upstream = stack.enter_context(run.upstream())
        url = stack.enter_context(serving_etcd(run.workdir))
        mesh.put_all(url, mesh.pets_and_films(Keys(), upstream))
        agents = [
            stack.enter_context(running_agent(run.workdir, host, url, cpus=run.proxy_cpus, access_log=False))
            for host in HOSTS
        ]
        for agent in agents:
            wait_until(f"agent {agent.host}", lambda agent=agent: answers(agent.outbound), agent.program)  # type: ignore[misc]
            saturate(agent.outbound, 1, run.workdir, run.load_cpus)
        alone = _load(run, agents, seconds)
        readers = [
            stack.enter_context(_reading(run, agents[0], number, words)) for number, words in enumerate(FILTERS * EACH)
        ]
        for reader in readers:
            wait_until("a reader", reader.follows, reader.program)
        before = _counted(agents)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(_load, run, agents, seconds)
            time.sleep(seconds / 4)
            readers[-1].program.popen.send_signal(signal.SIGSTOP)
            time.sleep(seconds / 2)
            readers[-1].program.popen.send_signal(signal.SIGCONT)
            read = loading.result()
        over = time.monotonic()
        asked = Counter(_counted(agents))
        asked.subtract(before)
        _settle(readers, asked)
        settled_s = time.monotonic() - over
        run.say(f"readers: {asked.total():,} requests, told of or counted {settled_s:.1f} s after the last one")
        told = [Shown(each.shown.total(), each.missed.total(), each is readers[-1]) for each in readers]
    return Result(alone.rate, read.rate, alone.us, read.us, alone.p99_us, read.p99_us, asked.total(), told, settled_s)


def _load(run: Run, agents: Sequence[Agent], seconds: float) -> Load:
    """As much as all of them take at once. Raises Failed where a request fails."""
    used = sum(sum(agent.program.cpu_s().values()) for agent in agents)
    with ThreadPoolExecutor(len(agents)) as pool:
        seen: list[Saturation] = list(
            pool.map(lambda agent: saturate(agent.outbound, seconds, run.workdir, run.load_cpus), agents)
        )
    used = sum(sum(agent.program.cpu_s().values()) for agent in agents) - used
    requests = sum(each.requests for each in seen)
    return Load(sum(each.rate for each in seen), used / requests * 1e6, max(each.p99_us for each in seen))


def _counted(agents: Sequence[Agent]) -> dict[str, int]:
    """Requests that each agent has answered."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found = {}
    for agent in agents:
        with opener.open(f"http://127.0.0.1:{agent.admin}/metrics", timeout=30) as answer:
            found[agent.host] = sum(int(each) for each in COUNTED.findall(answer.read()))
    return found


@contextmanager
def _reading(run: Run, agent: Agent, number: int, words: Sequence[str]) -> Iterator[Reader]:
    told, notes = run.workdir / f"reader-{number}.jsonl", run.workdir / f"reader-{number}.notes"
    argv = [sys.executable, "-m", "agent", "--admin", str(agent.program.log.parent / "agent.sock"), "-o", "json"]
    argv += ["logs", traffic.HOST, *words, "-f"]
    with told.open("wb") as out, running(f"reader {number}", argv, notes, cpus=run.load_cpus, stdout=out) as program:
        reader = Reader(program, told, notes)
        try:
            yield reader
        finally:
            reader.close()


def _settle(readers: Sequence[Reader], asked: Counter[str]) -> None:
    """Returns when each of them has been told of each request, or of its number. Raises Failed where one is not."""
    deadline = time.monotonic() + SETTLE_S
    waiting = list(readers)
    while waiting:
        for reader in waiting:
            reader.look()
        waiting = [reader for reader in waiting if reader.shown + reader.missed != +asked]
        if waiting and time.monotonic() > deadline:
            known = [dict(reader.shown + reader.missed) for reader in waiting]
            raise Failed(f"of {dict(asked)} requests {len(waiting)} readers know of {known}")
        time.sleep(0.2)


def goals(result: Result) -> list[Goal]:
    """What nobody was told of, nor of its number: a run that has any fails before this."""
    unknown = max(abs(result.requests - each.shown - each.missed) for each in result.readers)
    return [Goal("requests that a reader was not told of, nor of their number", unknown, 0)]


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"Three hosts on one core, and {len(result.readers)} who follow all of their requests")
    for heading in ("", "requests/s", "CPU of agents, µs a request", "p99 ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(
        "nobody reads", f"{result.alone_rate:,.0f}", f"{result.alone_us:.1f}", f"{result.alone_p99_us / 1e3:.1f}"
    )
    table.add_row("they read", f"{result.rate:,.0f}", f"{result.us:.1f}", f"{result.p99_us / 1e3:.1f}")
    console.print(table)
    shares = sorted(each.shown / result.requests for each in result.readers if not each.stopped)
    (stopped,) = [each for each in result.readers if each.stopped]
    each = f"{shares[0]:.1%} to {shares[-1]:.1%} (median {median(shares):.1%})"
    console.print(
        f"Of {result.requests:,} requests each reader was shown {each}, the one that was stopped "
        f"{stopped.shown / result.requests:.1%}. {result.settled_s:.1f} s after the last one all knew how many others "
        "there had been.",
        highlight=False,
    )
