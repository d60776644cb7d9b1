"""The life of an agent's process: sockets from systemd, reloads that change something, and one directory an agent."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.etcd.server import free_port
from tests.support.local import ask
from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, Traffic, running_mesh, until


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def pids(agent: AgentProcess) -> set[int]:
    return {worker["pid"] for worker in agent.state()["workers"]}


def reload(agent: AgentProcess, before: str, after: str) -> None:
    """Change the settings, and wait until other workers serve."""
    text = agent.path.read_text()
    assert before in text
    agent.path.write_text(text.replace(before, after))
    old = pids(agent)
    agent.tell(signal.SIGHUP)
    until("other workers", lambda: agent.ready() and not pids(agent) & old)


def refuses(address: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) != 0


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_reloads_that_change_the_number_of_workers(mesh: Mesh) -> None:
    """1 → 3 → 1, under load: what waits in the queue of a socket that lost its worker is served by another."""
    agent = mesh.agent(extra="workers = 1")
    mesh.instance(agent)
    with Traffic(agent) as traffic:
        traffic.more(20)
        first = pids(agent)
        reload(agent, "workers = 1", "workers = 3")
        assert len(pids(agent)) == 3
        second = pids(agent)
        traffic.more(50)
        reload(agent, "workers = 3", "workers = 1")
        assert len(pids(agent)) == 1
        for _ in range(30):
            assert agent.ask().status == 200  # a new connection each: to every socket of the port
        until("the previous workers have ended", lambda: all(gone(pid) for pid in first | second))
        traffic.more(50)
    assert traffic.failures == []
    assert agent.stop() == 0


def test_a_reload_that_moves_a_listener(mesh: Mesh) -> None:
    """The new address is served, the old one is not any more; the rest goes on."""
    agent = mesh.agent()
    mesh.instance(agent)
    before, agent.outbound = agent.outbound, free_port()
    reload(agent, f":{before}", f":{agent.outbound}")
    until("the new port serves", lambda: agent.ask().status == 200)
    until("the old port is closed", lambda: refuses(agent.address, before))


def test_reloads_leave_no_file_open(mesh: Mesh) -> None:
    """Each hands its sockets over: after many there are as many open as after few."""
    agent = mesh.agent()
    assert agent.process is not None

    def open_sockets() -> int:
        assert agent.process is not None
        found = 0
        for path in Path(f"/proc/{agent.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(path).startswith("socket:")
        return found

    counted = []
    for _ in range(4):
        before = pids(agent)
        reload(agent, "drain_timeout", "drain_timeout")
        until("the previous workers have ended", lambda before=before: all(map(gone, before)))
        counted.append(min(open_sockets() for _ in range(20)))
    assert counted[-1] <= counted[0] + 1


ACTIVATE = """
import os, sys
for at, given in enumerate(sys.argv[1].split(","), 3):
    os.dup2(int(given), at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="outbound:inbound:admin")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def start_activated(agent: AgentProcess, sockets: list[socket.socket]) -> None:
    """As systemd does: the sockets are descriptors 3 and on, named, for this very process."""
    fds = [sock.fileno() for sock in sockets]
    command = [
        sys.executable,
        "-c",
        ACTIVATE,
        ",".join(map(str, fds)),
        *SHOAL[1:],
        "agent",
        "--config",
        str(agent.path),
    ]
    with open(agent.log, "ab") as log:
        agent.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True, pass_fds=fds
        )


@contextlib.contextmanager
def held_sockets(agent: AgentProcess) -> Iterator[list[socket.socket]]:
    """systemd's sockets for an agent, at numbers that 3, 4 and 5 do not overwrite, and that nobody else has."""
    with contextlib.ExitStack() as stack:
        held = []
        for port in (agent.outbound, agent.inbound, agent.admin):
            with socket.create_server((agent.address, port)) as made:
                number = fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 100)
                held.append(stack.enter_context(socket.socket(fileno=number)))
        yield held


def test_sockets_from_systemd_outlive_a_restart(mesh: Mesh) -> None:
    """`systemctl restart`: who connects while no agent runs waits in systemd's queue, and is served by the next one."""
    agent = mesh.agent(extra="workers = 2", start=False)
    with held_sockets(agent) as sockets:
        start_activated(agent, sockets)
        until("ready", agent.ready)
        mesh.instance(agent)
        assert agent.ask().status == 200
        assert agent.stop() == 0
        with socket.create_connection((agent.address, agent.outbound), timeout=20) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: pets.production\r\nConnection: close\r\n\r\n")
            start_activated(agent, sockets)
            assert waiting.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_restart_does_not_forget_what_was_good(mesh: Mesh) -> None:
    """The document in etcd is bad, and was before the restart: the last good one is in force all the same."""
    agent = mesh.agent()
    mesh.put("policies/route/shop", {"rules": [{"respond": {"status": 299}}]})
    mesh.etcdctl("put", "/shoal/default/policies/route/shop", "{")
    until("refused", lambda: agent.state()["refused"])
    assert agent.stop() == 0
    agent.start()
    assert agent.ask("shop").status == 299
    assert agent.state()["refused"][0]["last_good"] > 0


def test_a_state_directory_has_one_agent(mesh: Mesh) -> None:
    """Two of them would each take the other for its own predecessor: the second one says so, and ends."""
    first = mesh.agent("web", extra="")
    second = mesh.agent("web", start=False, state_dir=first.state_dir)
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(20) != 0
    assert "another agent uses" in second.log.read_text()
    assert first.ready()


def test_names_that_another_took_first_are_of_no_consequence(mesh: Mesh) -> None:
    """Abstract socket names belong to whoever binds them: a start and a reload ask for none."""
    agent = mesh.agent(start=False)
    with contextlib.ExitStack() as stack:
        for port in (agent.outbound, agent.inbound, agent.admin):
            for name in (f"shoal/{agent.address}:{port}", f"shoal/{port}"):
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(f"\0{name}")
        agent.start()
        reload(agent, "drain_timeout", "drain_timeout")
        assert abstract_names(agent) == set()


def abstract_names(agent: AgentProcess) -> set[str]:
    """Those of the agent's control."""
    assert agent.process is not None
    mine = set()
    for path in Path(f"/proc/{agent.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            mine.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    found = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return {words[7] for words in found if len(words) > 7 and words[7].startswith("@") and words[6] in mine}


def test_a_reload_keeps_the_lock_of_its_directory(mesh: Mesh) -> None:
    """It is handed over: it is held before and after by the same file, and by no worker, not even those left behind."""
    agent = mesh.agent(extra="workers = 2")
    assert agent.process is not None

    def holds(pid: int) -> bool:
        lock = str(agent.state_dir / "lock")
        return any(os.path.realpath(fd) == lock for fd in Path(f"/proc/{pid}/fd").iterdir())

    reload(agent, "drain_timeout", "drain_timeout")
    assert holds(agent.process.pid)
    assert not any(holds(pid) for pid in pids(agent))
    second = mesh.agent("beta", start=False, state_dir=agent.state_dir)
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(20) != 0
    assert "another agent uses" in second.log.read_text()


def test_a_reload_that_cannot_have_its_address_changes_nothing(mesh: Mesh) -> None:
    """An address that somebody has, a directory that others may write to, a password that is not there: the agent says
    so and goes on as it is."""
    agent = mesh.agent()
    mesh.instance(agent)
    before = pids(agent)
    good = agent.path.read_text()
    (mesh.folder / "open").mkdir()
    (mesh.folder / "open").chmod(0o777)
    with socket.create_server((agent.address, 0)) as taken:
        port = taken.getsockname()[1]
        for change, reason in (
            ((f":{agent.outbound}", f":{port}"), "Address already in use (process"),
            ((str(agent.state_dir), str(mesh.folder / "open")), "may be written by others"),
            (("[etcd]", '[etcd]\nuser = "a"\npassword_file = "/nowhere"'), "/nowhere"),
        ):
            agent.path.write_text(good.replace(*change))
            agent.tell(signal.SIGHUP)
            until(reason, lambda reason=reason: reason in agent.log.read_text())
    assert agent.ask().status == 200
    assert pids(agent) == before
    agent.path.write_text(good)
    reload(agent, "drain_timeout", "drain_timeout")
    assert agent.ask().status == 200


def test_a_crashed_agent_is_succeeded_while_its_workers_serve(mesh: Mesh) -> None:
    """They listen on, and its address is not taken for that; a living agent's is, whatever its directory."""
    agent = mesh.agent()
    orphans = pids(agent)
    agent.stop(signal.SIGKILL)
    assert not any(gone(pid) for pid in orphans)
    agent.start(wait=False)
    until("other workers", lambda: agent.ready() and not pids(agent) & orphans)
    second = mesh.agent("beta", start=False)
    second.path.write_text(second.path.read_text().replace(f":{second.outbound}", f":{agent.outbound}"))
    second.start(wait=False)
    assert second.process is not None and agent.process is not None
    assert second.process.wait(20) == 2
    assert f"cannot listen on {agent.address}:{agent.outbound}: Address already in use" in second.log.read_text()
    assert f"process {agent.process.pid} of the user" in second.log.read_text()


def test_a_stopped_agent_leaves_nothing_in_etcd(mesh: Mesh) -> None:
    """Instances, health, agent, ack and what its version knows are gone with it, and the workers too. What is said of
    the mesh stays."""
    agent = mesh.agent()
    mesh.instance(agent)
    workers = pids(agent)
    keys = {f"/shoal/default/{room}/alpha" for room in ("acks", "agents", "versions")}
    until("its keys", lambda: keys <= set(mesh.etcdctl("get", "--prefix", "/shoal/", "--keys-only").split()))
    assert '"ratelimit":{"fields":{"$":' in mesh.etcdctl("get", "/shoal/default/versions/alpha")
    assert agent.stop() == 0
    assert mesh.etcdctl("get", "--prefix", "/shoal/", "--keys-only").split() == ["/shoal/default/confirmed/hosts"]
    assert all(gone(pid) for pid in workers)


def test_readiness_says_what_it_waits_for(mesh: Mesh) -> None:
    """Without etcd and without a table on disk an agent lives, is not ready, and holds requests for a while."""
    mesh.etcd.stop()
    agent = mesh.agent(start=False, extra="")
    agent.start(wait=False)
    until("alive", lambda: agent.text("/healthz") == "ok\n")
    assert agent.state()["not_ready"].startswith("waiting for the first table from etcd")
    mesh.etcd.start()
    until("ready", agent.ready)
    assert agent.ask("nobody").status == 404


# What is alive, and what is said, over a reload.


@contextlib.contextmanager
def streaming(agent: AgentProcess, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An upgraded connection from a client by way of the agent to a server of the test's: both ends of it."""
    with socket.create_server((agent.address, port)) as server, contextlib.ExitStack() as stack:
        yield upgraded(agent, server, stack)


def upgraded(
    agent: AgentProcess, server: socket.socket, stack: contextlib.ExitStack
) -> tuple[socket.socket, socket.socket]:
    client = stack.enter_context(socket.create_connection((agent.address, agent.outbound), 30))
    client.sendall(b"GET /ws HTTP/1.1\r\nHost: stream\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    while True:
        far = stack.enter_context(server.accept()[0])
        far.settimeout(30)
        if far.recv(65536).startswith(b"GET /ws"):  # else the check, which only connects
            break
    far.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 101")
    return client, far


def goes_on(client: socket.socket, far: socket.socket) -> bool:
    client.sendall(b"ping")
    far.sendall(b"pong")
    return far.recv(4) == b"ping" and client.recv(4) == b"pong"


def stream(mesh: Mesh, agent: AgentProcess) -> int:
    """Register a service whose instance is this test; the port."""
    port = free_port()
    agent.register("stream", port, health={"ttl": "1h"})
    assert (
        ask(agent.socket, "PUT", f"/api/v1/instances/stream/{agent.host}-{port}/health", {"healthy": True}).status
        == 200
    )
    until("there", lambda: mesh.healthy(agent, "stream", port))
    return port


def test_reloads_do_not_cut_what_is_alive(mesh: Mesh) -> None:
    """An upgraded connection goes on under its worker over two reloads and long after drain_timeout; who is idle is let
    go with that; and when the agent stops, the connection ends with the agent, as does its worker."""
    agent = mesh.agent(extra="workers = 1")
    with streaming(agent, stream(mesh, agent)) as (client, far):
        with socket.create_connection((agent.address, agent.outbound), 30) as idle:
            for _ in range(2):
                reload(agent, 'drain_timeout = "', 'drain_timeout = "0')
                assert goes_on(client, far)
            assert idle.recv(1) == b""  # after drain_timeout (3 s)
        assert goes_on(client, far)
        (old,) = agent.state()["previous_workers"]
        assert agent.stop() == 0
        assert client.recv(1) == b""
        until("ended", lambda: gone(old))


def test_what_is_alive_has_a_limit(mesh: Mesh) -> None:
    """reload_timeout: then it is cut, has its record, and is counted."""
    log = mesh.folder / "access.log"
    agent = mesh.agent(extra=f'workers = 1\nreload_timeout = "4s"\naccess_log = "{log}"')
    with streaming(agent, stream(mesh, agent)) as (client, far):
        reload(agent, "workers = 1", "workers = 2")
        assert goes_on(client, far)
        assert client.recv(1) == b""
    until("ended", lambda: not agent.state()["previous_workers"])
    until("its record", lambda: '"target":"/ws"' in log.read_text())
    assert 'shoal_requests_total{service="stream"' in agent.text("/metrics")
    assert 'shoal_requests_active{service="stream"} 0' in agent.text("/metrics")


def records(folder: Path) -> list[str]:
    return [line for path in folder.glob("access*") for line in path.read_text().splitlines()]


def counted(agent: AgentProcess) -> int:
    found = re.findall(r'shoal_requests_total\{service="pets.production".*?\} (\S+)', agent.text("/metrics"))
    return sum(int(float(number)) for number in found)


def test_no_line_and_no_count_is_lost_over_reloads(mesh: Mesh, tmp_path: Path) -> None:
    """Under load, with the file moved away each time: a line a request, all of them whole, and the counters agree."""
    folder = tmp_path / "logs"
    folder.mkdir()
    agent = mesh.agent(extra=f'workers = 2\naccess_log = "{folder}/access.log"')
    mesh.instance(agent)
    before = len(records(folder))
    with Traffic(agent) as traffic:
        for number in range(3):
            traffic.more(100)
            (folder / "access.log").rename(folder / f"access.{number}")
            reload(agent, 'drain_timeout = "', 'drain_timeout = "0')
        traffic.more(100)
    assert traffic.failures == []
    both = 2 * traffic.done  # of each: outbound and inbound
    until("every line", lambda: len(records(folder)) - before >= traffic.done)
    until("the previous workers have ended", lambda: not agent.state()["previous_workers"])
    lines = records(folder)
    assert all(json.loads(line)["service"] for line in lines)
    assert len(lines) - before == counted(agent) in (traffic.done, both)


def test_who_is_silent_in_an_upgraded_connection_ends_under_each_worker(mesh: Mesh) -> None:
    """Those of now and those of before a reload, by the `idle` of the service, and each is in the access log with the
    reason; who goes on talking is none of them, wherever it is."""
    log = mesh.folder / "access.log"
    agent = mesh.agent(extra=f'workers = 2\naccess_log = "{log}"')
    port = stream(mesh, agent)
    mesh.put("policies/timeout/stream", {"idle": "6s"})
    with socket.create_server((agent.address, port), backlog=64) as server, contextlib.ExitStack() as stack:
        with talking() as talks:
            talks.append(upgraded(agent, server, stack))
            silent = [upgraded(agent, server, stack) for _ in range(7)]
            old = pids(agent)
            reload(agent, 'drain_timeout = "', 'drain_timeout = "0')
            talks.append(upgraded(agent, server, stack))
            silent += [upgraded(agent, server, stack) for _ in range(7)]
            until("the silent ones have ended", lambda: all(ended(client) and ended(far) for client, far in silent))
            assert set(agent.state()["previous_workers"]) <= old
        assert all(goes_on(*pair) for pair in talks)
        until("and those that fell silent", lambda: all(ended(client) for client, _ in talks))
    why = "upgraded, and no byte either way for 6 s (idle)"
    until("each is told", lambda: log.read_text().count(why) == len(silent) + len(talks))
    until("nobody stays for them", lambda: agent.state()["previous_workers"] == [])


@contextlib.contextmanager
def talking() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Over the connections that are put into the list, all the time."""
    pairs: list[tuple[socket.socket, socket.socket]] = []
    said_enough, talked = threading.Event(), []

    def talk() -> None:
        while not said_enough.wait(0.1):
            talked.extend(goes_on(*pair) for pair in list(pairs))

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield pairs
    finally:
        said_enough.set()
        thread.join()
    assert all(talked)


def ended(sock: socket.socket) -> bool:
    """Whether the other side has closed it; nothing is to be read before."""
    try:
        return sock.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_signal_that_only_reopens_the_access_log(mesh: Mesh, tmp_path: Path) -> None:
    """SIGUSR1, sent to the whole group as `systemctl kill` does: the same workers, a new file, and no line lost. Where
    it cannot be opened the old one goes on."""
    folder = tmp_path / "logs"
    folder.mkdir()
    agent = mesh.agent(extra=f'workers = 2\naccess_log = "{folder}/access.log"')
    mesh.instance(agent)
    workers = pids(agent)
    assert agent.process is not None
    with Traffic(agent) as traffic:
        traffic.more(50)
        (folder / "access.log").rename(folder / "access.1")
        os.killpg(agent.process.pid, signal.SIGUSR1)
        until("a new file", (folder / "access.log").exists)
        traffic.more(50)
        (folder / "access.log").rename(folder / "access.2")
        (folder / "access.log").mkdir()
        agent.tell(signal.SIGUSR1)
        until("said", lambda: f"cannot open {folder}/access.log" in agent.log.read_text())
        traffic.more(50)
    until("every line", lambda: len(lines_of(folder)) == counted(agent))
    assert traffic.failures == []
    assert pids(agent) == workers
    assert "shoal_access_log_lines_lost_total 0" in agent.text("/metrics")


def lines_of(folder: Path) -> list[str]:
    return [line for name in ("access.1", "access.2") for line in (folder / name).read_text().splitlines()]


def test_signals_that_come_while_it_is_executed_anew(mesh: Mesh) -> None:
    """They wait for the next process: a second reload, and a word to reopen the log, end nobody."""
    agent = mesh.agent(extra="workers = 1")
    mesh.instance(agent)
    first = pids(agent)
    agent.tell(signal.SIGHUP)
    until("reloading", lambda: "reloading" in agent.log.read_text())
    for _ in range(20):
        agent.tell(signal.SIGUSR1)
        agent.tell(signal.SIGHUP)
        time.sleep(0.05)  # over the whole of it
    until("twice", lambda: agent.log.read_text().count("event=reloading") >= 2)
    until("others", lambda: agent.ready() and not pids(agent) & first)
    until("served", lambda: agent.ask().status == 200)
    assert agent.stop() == 0


@pytest.mark.parametrize("name", ["host", "mesh"])
def test_another_name_is_refused_until_a_restart(mesh: Mesh, name: str) -> None:
    """Else the lease would hold the keys of two agents. It goes on as it was, and reloads what else it is told."""
    agent = mesh.agent("alpha", extra="workers = 1")
    mesh.instance(agent)
    until("what it writes of itself", lambda: len(keys_of(mesh, "alpha")) >= 3)
    before, old, text = keys_of(mesh, "alpha"), pids(agent), agent.path.read_text()
    without = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
    agent.path.write_text(f'{name} = "other"\n{without}')
    agent.tell(signal.SIGHUP)
    said = f"{name}: 'other', and this agent is "
    until("refused", lambda: said in agent.log.read_text())
    agent.path.write_text(text)
    reload(agent, "workers = 1", "workers = 2")
    assert pids(agent).isdisjoint(old) and agent.ask().status == 200
    assert keys_of(mesh, "alpha") >= before and not keys_of(mesh, "other")


def keys_of(mesh: Mesh, name: str) -> set[str]:
    """All that an agent, or a mesh, of that name has in etcd."""
    keys = mesh.etcdctl("get", "--prefix", "--keys-only", "/shoal/").split()
    return {key for key in keys if name in key.split("/")}


def counters(agent: AgentProcess) -> dict[tuple[str, ...], float]:
    """All that may only grow, without what is of one process: by name and labels."""
    found = text_string_to_metric_families(agent.text("/metrics"))
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in found
        if family.type in ("counter", "histogram") and not family.name.startswith("process_")
        for sample in family.samples
    }


def test_no_counter_falls(mesh: Mesh) -> None:
    """Over workers that are killed, reloads, and workers of the process before that are killed; nor does one vanish."""
    agent = mesh.agent(extra="workers = 2")
    with streaming(agent, stream(mesh, agent)), Traffic(agent) as traffic:
        mesh.instance(agent)
        until("served", lambda: agent.ask().status == 200)
        shown = counters(agent)
        killed: set[int] = set()
        for step in ("reload", "kill an old one", "kill", "reload", "kill"):
            traffic.more(50)
            if step == "reload":
                reload(agent, 'drain_timeout = "', 'drain_timeout = "0')
            else:
                workers = pids(agent) if step == "kill" else set(agent.state()["previous_workers"])
                victim = max(workers - killed)
                killed.add(victim)
                os.kill(victim, signal.SIGKILL)
            for _ in range(5):
                now = counters(agent)
                assert {key: (before, now.get(key)) for key, before in shown.items() if now.get(key, -1) < before} == {}
                shown = now
            until("ready", lambda: agent.ready())
    assert shown["shoal_worker_restarts_total",] >= 2


def test_a_port_for_metrics(mesh: Mesh) -> None:
    """Reached by any name, shows metrics and readiness and nothing else, and changes nothing; it comes, moves and goes
    with a reload."""
    ports = [free_port(), free_port()]
    agent = mesh.agent(extra=f'workers = 1\nmetrics.listen = "127.0.0.1:{ports[0]}"')

    def status(method: str, target: str, port: int = ports[0]) -> int:
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            sock.sendall(
                f"{method} {target} HTTP/1.1\r\nHost: metrics.corp.example\r\nConnection: close\r\n\r\n".encode()
            )
            return int(sock.makefile("rb").readline().split()[1])

    assert (status("GET", "/metrics"), status("GET", "/readyz")) == (200, 200)
    for method, target in (("GET", "/state"), ("GET", "/healthz"), ("GET", "/api/v1/network"), ("GET", "/")):
        assert status(method, target) == 404, target
    for method in ("POST", "PUT", "DELETE"):
        assert status(method, "/metrics") == 405, method
    assert ("metrics", ports[0]) in [(it["name"], it["port"]) for it in agent.state()["listeners"]]
    reload(agent, f":{ports[0]}", f":{ports[1]}")
    assert status("GET", "/metrics", ports[1]) == 200
    with pytest.raises(ConnectionRefusedError):
        status("GET", "/metrics")
    reload(agent, f'metrics.listen = "127.0.0.1:{ports[1]}"', "")
    with pytest.raises(ConnectionRefusedError):
        status("GET", "/metrics", ports[1])
    reload(agent, "workers = 1", f'workers = 1\nmetrics.listen = "127.0.0.1:{ports[0]}"')
    assert status("GET", "/metrics") == 200
