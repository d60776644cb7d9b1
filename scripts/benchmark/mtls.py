"""Section `mtls`: a request over two hops, its caller's proxy and its instance's, in plain text and by mutual TLS.

Shoal: two agents that `shoal ca init` and grants have made TLS, `strict`; Envoy: two with certificates of the same
sort (P-256, one intermediate, TLS 1.3, its SPIFFE validator). Both proxies of a pair have one core together, and their
cost is that of both. A new connection is one by both certificates, and a request; its cost is the callee's. Idle is
what its memory grows by for each connection that stays.

A call on one host passes one agent, which hands it to the instance itself, where `strict` holds too. Sidecars are two
there as everywhere: their figure is that of two hops.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from registry.keys import Keys
from scripts.benchmark import certificates, mesh, traffic
from scripts.benchmark.agents import Agent, running_agent
from scripts.benchmark.cpu import SETTLE_S, WARM_S
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import answers, saturate
from scripts.benchmark.processes import Failed, Program, wait_until
from scripts.benchmark.run import RIVAL, US, Run, ratio
from scripts.benchmark.two_envoys import start as two_envoys

HANDSHAKES = 500
IDLE = 500
REQUEST = next(iter(traffic.requests()))


class Pair(msgspec.Struct, frozen=True):
    """Two proxies, one behind the other; on one host one."""

    name: str
    port: int
    """Of the caller's."""
    caller: Program
    callee: Program | None
    """None: the instance is beside the caller."""
    inbound: int
    """Of the callee's."""
    context: ssl.SSLContext | None
    """By which a caller is proven there; None: it is plain text."""

    def cpu_s(self) -> float:
        """Of both, so far."""
        return sum(sum(program.cpu_s().values()) for program in (self.caller, self.callee) if program is not None)


class Figures(msgspec.Struct, frozen=True):
    """Of a pair, over all rounds."""

    name: str
    cpu_us: list[float] = []
    """A request, both proxies."""
    rate: list[float] = []
    handshake_us: list[float] = []
    idle_bytes: list[float] = []


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    pairs: list[Figures]


@contextmanager
def two_agents(run: Run, v1: Sequence[int], *, secured: bool) -> Iterator[Pair]:
    """Of a mesh of their own; `secured` by the commands that an operator has."""
    keys = Keys()
    folder = run.workdir / ("agents-mtls" if secured else "agents-plain")
    folder.mkdir()
    with (
        serving_etcd(folder) as url,
        running_agent(folder, "caller", url, cpus=run.proxy_cpus) as caller,
        running_agent(folder, "callee", url, cpus=run.proxy_cpus) as callee,
    ):
        _register(folder, callee, v1)
        wait_until("two hops", lambda: answers(caller.outbound), caller.program)
        if secured:
            _secure(keys, url, folder, caller, callee)
        context = certificates.of_agent(folder / f"agent-caller-{caller.outbound}" / "identity") if secured else None
        name = f"{US}, mTLS" if secured else f"{US}, plain"
        yield Pair(name, caller.outbound, caller.program, callee.program, _inbound(callee, folder), context)


@contextmanager
def one_host(run: Run, v1: Sequence[int]) -> Iterator[Pair]:
    """An agent with the instances beside it, in a mesh that is `strict`."""
    folder = run.workdir / "agents-one-host"
    folder.mkdir()
    with serving_etcd(folder) as url, running_agent(folder, "alone", url, cpus=run.proxy_cpus) as agent:
        _register(folder, agent, v1)
        wait_until("an instance", lambda: answers(agent.outbound), agent.program)
        _secure(Keys(), url, folder, agent, agent)
        yield Pair(f"{US}, one host", agent.outbound, agent.program, None, 0, None)


def _register(folder: Path, agent: Agent, ports: Sequence[int]) -> None:
    socket_path = folder / f"agent-{agent.host}-{agent.outbound}" / "agent.sock"
    for port in ports:
        register = ["register", "--service", traffic.HOST, "--version", "v1", "--port", str(port)]
        _shoal(["--admin", str(socket_path), *register])


def _inbound(agent: Agent, folder: Path) -> int:
    text = (folder / f"agent-{agent.host}-{agent.outbound}" / "agent.toml").read_text()
    return int(text.partition("[inbound]")[2].partition(":")[2].partition('"')[0])


def _shoal(words: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "agent", *words], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Failed(f"shoal {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")


def _secure(keys: Keys, url: str, folder: Path, caller: Agent, callee: Agent) -> None:
    """As docs/identity.md has it: a root and an issuer, hosts, a grant; then `strict`."""
    init = ["ca", "init", "--issuer", caller.host, "--root-key", str(folder / "root.key")]
    _shoal(["--etcd", url, *init])
    mesh.put_all(
        url,
        {
            keys.identity("hosts", caller.host): b"{}",
            keys.identity("hosts", callee.host): b"{}",
            keys.identity("grants", traffic.HOST): mesh.as_json({"hosts": [callee.host]}),
        },
    )

    def held(agent: Agent, count: int) -> Callable[[], bool]:
        return lambda: len(agent.state()["identity"].get("held", [])) == count

    each = 3 if caller is callee else 2  # an issuer's, an agent's, the service's
    wait_until("the caller's certificates", held(caller, each), caller.program)
    wait_until("the callee's certificates", held(callee, each), callee.program)
    time.sleep(SETTLE_S)
    revision = mesh.change_all(url, {keys.policy("tls", "*"): mesh.as_json({"mtls": "strict"})})
    for agent in (caller, callee):
        wait_until(
            "strict", lambda a=agent: all(w["revision"] >= revision for w in a.state()["workers"]), agent.program
        )
    wait_until("two hops by TLS", lambda: answers(caller.outbound), caller.program)


@contextmanager
def _connections(pair: Pair, count: int, *, keep: bool) -> Iterator[None]:
    """So many new ones to the callee, each with one request; they stay until the end of the block, if they are kept."""
    with ExitStack() as stack:
        for _ in range(count):
            raw = socket.create_connection(("127.0.0.1", pair.inbound), timeout=10)
            sock = raw if pair.context is None else pair.context.wrap_socket(raw, server_hostname=traffic.HOST)
            if keep:
                stack.enter_context(sock)
            sock.sendall(REQUEST)
            answer = b""
            while not answer.endswith(traffic.BODY):
                more = sock.recv(65536)
                if not more:
                    raise Failed(f"{pair.name}: a connection was closed after {answer[:200]!r}")
                answer += more
            if not keep:
                sock.close()
        yield


def _once(run: Run, pair: Pair, found: Figures) -> None:
    before = pair.cpu_s()
    seen = saturate(pair.port, run.seconds(8, 2), run.workdir, run.load_cpus)
    time.sleep(SETTLE_S)
    found.cpu_us.append((pair.cpu_s() - before) / seen.requests * 1e6)
    found.rate.append(seen.rate)
    if pair.callee is None:
        run.say(f"mtls {pair.name}: {found.cpu_us[-1]:.1f} us, {seen.rate:.0f}/s")
        return
    before = sum(pair.callee.cpu_s().values())
    with _connections(pair, HANDSHAKES, keep=False):
        pass
    time.sleep(SETTLE_S)
    found.handshake_us.append((sum(pair.callee.cpu_s().values()) - before) / HANDSHAKES * 1e6)
    run.say(
        f"mtls {pair.name}: {found.cpu_us[-1]:.1f} us, {seen.rate:.0f}/s, {found.handshake_us[-1]:.0f} us a new one"
    )


def _idle(pair: Pair, found: Figures) -> None:
    """What load leaves in an allocator is handed to the first ones: those after them are weighed."""
    if pair.callee is None:
        return
    with _connections(pair, IDLE, keep=True):
        time.sleep(SETTLE_S)
        before = sum(pair.callee.rss_bytes().values())
        with _connections(pair, IDLE, keep=True):
            time.sleep(SETTLE_S)
            found.idle_bytes.append((sum(pair.callee.rss_bytes().values()) - before) / IDLE)


def measure(run: Run) -> Result:
    """Interleaved rounds."""
    with run.upstream() as upstream, ExitStack() as stack:
        pairs: list[Pair] = []
        for secured in (False, True):
            pairs.append(stack.enter_context(two_agents(run, upstream.v1, secured=secured)))
            name = f"{RIVAL}, mTLS" if secured else f"{RIVAL}, plain"
            ports, programs, context = stack.enter_context(two_envoys(run, upstream.v1, secured=secured))
            pairs.append(Pair(name, ports[0], *programs, ports[1], context))
        pairs.append(stack.enter_context(one_host(run, upstream.v1)))
        found = {pair.name: Figures(pair.name, [], [], [], []) for pair in pairs}
        for pair in pairs:
            saturate(pair.port, WARM_S, run.workdir, run.load_cpus)
        for _ in range(run.rounds):
            for pair in pairs:
                _once(run, pair, found[pair.name])
        for pair in pairs:
            _idle(pair, found[pair.name])
    return Result(list(found.values()))


def goals(result: Result) -> list[Goal]:
    """At most 0.8 of Envoy's; 0.6 is aimed at. Compared are loads of one round, which had the same machine."""
    cost = {each.name: each.cpu_us for each in result.pairs}
    ours = [mine / theirs for mine, theirs in zip(cost[f"{US}, mTLS"], cost[f"{RIVAL}, mTLS"], strict=True)]
    return [Goal(f"CPU per request over two hops by mTLS, of {RIVAL}'s", median(ours), 0.8, "x")]


def show(result: Result, console: Console) -> None:
    """The table."""
    cost = {each.name: median(each.cpu_us) for each in result.pairs}
    table = Table(title="Two hops, both proxies on one core (median of the rounds)")
    for heading in ("", "µs a request", "min..max", f"of {RIVAL}'s", "requests/s", "µs a new one", "bytes idle"):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in result.pairs:
        rival = cost.get(each.name.replace(US, RIVAL), cost[f"{RIVAL}, mTLS"])
        table.add_row(
            each.name,
            f"{median(each.cpu_us):.1f}",
            f"{min(each.cpu_us):.1f}..{max(each.cpu_us):.1f}",
            ratio(median(each.cpu_us), rival),
            f"{median(each.rate):,.0f}",
            f"{median(each.handshake_us):,.0f}" if each.handshake_us else "",
            f"{median(each.idle_bytes):,.0f}" if each.idle_bytes else "",
        )
    console.print(table)
