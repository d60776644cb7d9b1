"""Section `convergence`: from `put` to "in force in every worker", on 20 agents, beside etcd's own watch latency.

Puts go to two places in turn: a policy that all agents watch, and a key that 20 raw watchers watch (watcher.py: 20
processes, a plain gRPC watch each), same size, same spacing, same etcd, same run. Latency runs from just before the put
is sent: for a watcher to the instant when it had the event in hand; for an agent to the instant when the last of its
workers confirmed that it runs the revision (`recent_commits` of its /state, so nothing has to poll meanwhile).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from registry.etcd.store import EtcdSettings, EtcdStore
from registry.keys import Keys
from scripts.benchmark import mesh, traffic
from scripts.benchmark.agents import Agent, running_agent
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.processes import Failed, Program, running, wait_until
from scripts.benchmark.run import Run, ratio

AGENTS = 20
RAW = "/shoal-bench/raw/"
SPACING_S = 0.2
COLLECT_EVERY = 40
"""Puts between two looks at /state, which keeps the last 100 commits."""

Arrivals = dict[int, list[float]]
"""By revision: when each of the 20 had it, in unix seconds."""

Commits = dict[str, dict[int, float]]
"""By agent: the revisions that all its workers came to run, and when, in unix seconds."""


class Lag(msgspec.Struct, frozen=True):
    """Milliseconds from the put, over all puts."""

    each_p50: float
    each_p99: float
    """Of all (put, receiver) pairs."""
    last_p50: float
    last_p99: float
    """Of the last of the 20 receivers of each put."""


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    agents: int
    puts: int
    raw: Lag
    shoal: Lag


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def lag(sent: dict[int, float], arrivals: Arrivals) -> Lag:
    """The distribution. Raises Failed when a receiver missed a put."""
    each: list[float] = []
    last: list[float] = []
    for revision, at in sent.items():
        took = [(arrival - at) * 1000 for arrival in arrivals.get(revision, ())]
        if len(took) != AGENTS:
            raise Failed(f"revision {revision} was confirmed by {len(took)} of {AGENTS}")
        each += took
        last.append(max(took))
    return Lag(quantile(each, 0.5), quantile(each, 0.99), quantile(last, 0.5), quantile(last, 0.99))


@contextmanager
def raw_watchers(workdir: Path, url: str) -> Iterator[list[Program]]:
    """Twenty processes that watch."""
    argv = [sys.executable, "-m", "scripts.benchmark.watcher", url, RAW]
    with ExitStack() as stack:
        log = workdir / "watchers.log"
        watchers = [stack.enter_context(running("watcher", argv, log, stdout=subprocess.PIPE)) for _ in range(AGENTS)]
        for watcher in watchers:
            if read_line(watcher) != b"watching\n":
                watcher.check()
        yield watchers


def read_line(watcher: Program) -> bytes:
    """The next line that a watcher printed."""
    assert watcher.popen.stdout is not None
    return watcher.popen.stdout.readline()


def watched(watchers: Sequence[Program]) -> Arrivals:
    """What the watchers noted, once they saw the end key."""
    arrivals: Arrivals = {}
    for watcher in watchers:
        for revision, at_ns in json.loads(read_line(watcher)).items():
            arrivals.setdefault(int(revision), []).append(at_ns / 1e9)
    return arrivals


def collect(agents: Sequence[Agent], commits: Commits) -> None:
    """Take over what every agent has noted since the last time."""
    for agent in agents:
        for revision, at in agent.state()["recent_commits"]:
            commits.setdefault(agent.host, {}).setdefault(revision, at)


def in_force(sent: dict[int, float], commits: Commits) -> Arrivals:
    """When each revision was in force on each agent: at its first commit of that revision or a later one."""
    arrivals: Arrivals = {}
    for committed in commits.values():
        ordered = sorted(committed.items())
        for revision in sent:
            at = next((at for reached, at in ordered if reached >= revision), None)
            if at is not None:
                arrivals.setdefault(revision, []).append(at)
    return arrivals


async def put_in_turn(
    url: str, puts: int, agents: Sequence[Agent]
) -> tuple[dict[int, float], dict[int, float], Commits]:
    """Put to the policy and to the raw key, in turn. Returns when each was sent, and what the agents noted."""
    store = EtcdStore(EtcdSettings(endpoints=(url,)))
    policy = Keys().policy("timeout", traffic.HOST)
    sent: dict[str, dict[int, float]] = {policy: {}, RAW + "key": {}}
    commits: Commits = {}
    try:
        for number in range(puts):
            value = mesh.as_json({"request": f"{10_000 + number}ms"})
            for key, instants in sent.items():
                await trio.sleep(random.uniform(0.5, 1.5) * SPACING_S)
                began = time.time()
                instants[await store.put(key, value)] = began
            if (number + 1) % COLLECT_EVERY == 0:
                await trio.sleep(1)
                collect(agents, commits)
        await trio.sleep(2)
        collect(agents, commits)
        await store.put(RAW + "end", b"")
    finally:
        await store.aclose()
    return sent[policy], sent[RAW + "key"], commits


def measure(run: Run) -> Result:
    """Twenty agents and twenty watchers on one etcd."""
    puts = 30 if run.quick else 200
    with ExitStack() as stack:
        url = stack.enter_context(serving_etcd(run.workdir))
        mesh.put_all(url, mesh.crowd(Keys(), 100, 5))
        agents = [stack.enter_context(running_agent(run.workdir, f"host-{n}", url, wait=False)) for n in range(AGENTS)]
        for agent in agents:
            wait_until(f"agent {agent.host}", agent.ready, agent.program, timeout_s=120)
        watchers = stack.enter_context(raw_watchers(run.workdir, url))
        run.say(f"convergence: {AGENTS} agents and {AGENTS} raw watchers are up; {puts} puts to each")
        policies, raw, commits = trio.run(put_in_turn, url, puts, agents)
        raw_lag = lag(raw, watched(watchers))
    return Result(AGENTS, puts, raw_lag, lag(policies, in_force(policies, commits)))


def goals(result: Result) -> list[Goal]:
    """At most five times the raw watch: for one receiver, and for the last of all."""
    ours, raw = result.shoal, result.raw
    return [
        Goal("put to in force, p99, of a raw watch's", ours.each_p99 / raw.each_p99, 5, "x"),
        Goal("the same for the last of all", ours.last_p99 / raw.last_p99, 5, "x"),
    ]


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title=f"From put to {result.agents} receivers, ms ({result.puts} puts to each)")
    for heading in ("", "each p50", "each p99", "last p50", "last p99"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {"raw etcd watch": result.raw, "in force in every worker": result.shoal}
    for name, seen in rows.items():
        table.add_row(name, *(f"{v:.1f}" for v in (seen.each_p50, seen.each_p99, seen.last_p50, seen.last_p99)))
    ours, theirs = result.shoal, result.raw
    pairs = ("each_p50", "each_p99", "last_p50", "last_p99")
    table.add_row("ratio", *(ratio(getattr(ours, name), getattr(theirs, name)) for name in pairs))
    console.print(table)
