"""Nothing that a stranger sends kills, stalls or fools: real agents, and somebody at port 15006 who is none."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

STRANGER = "127.0.0.66"
LIMIT = {"limits": [{"name": "all", "rate": "1000/s", "scope": "mesh"}]}
POISON = b"\x92\xa1\xff\x80"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def say(agent: AgentProcess, data: bytes, *, source: str = STRANGER, port: int = 0) -> bytes:
    """Say it to the inbound listener, and no more; what comes back until the agent closes."""
    target = (agent.address, port or agent.inbound)
    with socket.create_connection(target, timeout=10, source_address=(source, 0)) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while piece := sock.recv(65536):
                found += piece
        except ConnectionResetError:
            pass
        return found


def hear(agent: AgentProcess, data: bytes, *, source: str = STRANGER) -> bytes:
    """Say it to the inbound listener, and hear the head of the answer."""
    with socket.create_connection((agent.address, agent.inbound), timeout=10, source_address=(source, 0)) as sock:
        sock.sendall(data)
        found = b""
        while b"\r\n\r\n" not in found and (piece := sock.recv(65536)):
            found += piece
        return found


def question(body: bytes, path: bytes = b"/shares") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)


def pids(agent: AgentProcess) -> list[int]:
    return sorted(worker["pid"] for worker in agent.state()["workers"])


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def noise(rng: random.Random) -> bytes:
    """Something between a request and garbage."""
    names = [
        b"x-shoal-deadline",
        b"x-shoal-endpoint",
        b"x-shoal-caller",
        b"x-shoal-explain",
        b"proxy-authorization",
        b"x",
    ]
    values = [rng.randbytes(8), b"Basic " + base64.b64encode(rng.randbytes(12)), b"pets.production/\xff", b"1", b""]
    hosts = [b"pets.production", b"agent.shoal", b"\xff", rng.randbytes(6).hex().encode()]
    head = b"%b /%b HTTP/1.1\r\nHost: %b\r\n" % (
        rng.choice([b"GET", b"POST"]),
        rng.randbytes(3).hex().encode(),
        rng.choice(hosts),
    )
    head += b"".join(b"%b: %b\r\n" % (rng.choice(names), rng.choice(values)) for _ in range(3))
    return rng.choice(
        [rng.randbytes(50), head + b"\r\n", head + b"Content-Length: 4\r\n\r\n" + POISON, question(rng.randbytes(30))]
    )


def quiet(agent: AgentProcess) -> None:
    """Nothing went wrong inside."""
    log = agent.log.read_text()
    assert "Traceback" not in log and "a worker" not in log, log[-3000:]


def test_noise_from_everywhere_kills_nobody(mesh: Mesh) -> None:
    """From strangers, from an agent's own address and from a local service: everybody lives on, the log has no word of
    it, and no memory is kept."""
    alpha, beta = mesh.agent("alpha", extra="workers = 1\n"), mesh.agent("beta", "127.0.0.2", extra="workers = 1\n")
    mesh.instance(alpha)
    mesh.put("policies/ratelimit/pets.production", LIMIT)
    before, control = pids(alpha), alpha.process
    assert control is not None
    rng = random.Random(1)
    grown = []
    for _ in range(3):
        for _ in range(150):
            data = noise(rng)
            say(alpha, data)
            say(alpha, data, source=beta.address)
            say(alpha, data, port=alpha.outbound, source="127.0.0.1")
        for source in (STRANGER, beta.address):
            for body in (POISON, b"\x91" * 60_000, b"", b"\xdd\xff\xff\xff\xff"):
                expected = b"HTTP/1.1 400" if source == beta.address else b"HTTP/1.1 403"
                assert hear(alpha, question(body), source=source).startswith(expected)
        grown.append(resident_kib(before[0]) + resident_kib(control.pid))
    assert grown[2] < grown[0] + 8 * 1024, grown
    assert pids(alpha) == before and alpha.ask().status == 200
    assert "shoal_frames_mishandled_total 0.0" in alpha.text("/metrics")
    quiet(alpha)


def test_a_stranger_gets_no_share_of_a_limit(mesh: Mesh) -> None:
    """Whoever he says he is: neither at an agent's door, nor as an agent that is registered elsewhere."""
    alpha, beta = mesh.agent("alpha", extra="workers = 1\n"), mesh.agent("beta", "127.0.0.2", extra="workers = 1\n")
    gamma = mesh.agent("gamma", "127.0.0.3", extra="workers = 1\n")
    mesh.put("policies/ratelimit/pets.production", LIMIT)
    mesh.instance(alpha)
    report = {"pets.production\0all": (1e12, 1.0, 1.0, 1.0)}
    for agent in (alpha, beta, gamma):
        for source, member, status in (
            (STRANGER, "beta", 403),
            (STRANGER, "nobody", 403),
            (gamma.address, "alpha" if agent is beta else "beta", 403),
            (gamma.address, "gamma", 403 if agent is gamma else 200),
        ):
            if source != agent.address:
                body = msgspec.msgpack.encode([member, report])
                assert hear(agent, question(body), source=source).startswith(b"HTTP/1.1 %d" % status), (
                    agent.host,
                    member,
                )
    for agent in (alpha, beta, gamma):
        quiet(agent)


def test_a_stranger_is_served_as_a_plain_client(mesh: Mesh) -> None:
    """He chooses no instance, has no name, and is told nothing; the same words from an agent's address count."""
    alpha, beta = mesh.agent("alpha"), mesh.agent("beta", "127.0.0.2")
    mesh.instance(alpha)
    said = b"GET / HTTP/1.1\r\nHost: pets.production\r\nConnection: close\r\nX-Shoal-Endpoint: pets.production/none\r\n"
    said += b"X-Shoal-Caller: root.production\r\nX-Shoal-Explain: 1\r\n\r\n"
    answer = hear(alpha, said)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"x-shoal" not in head.lower()
    assert b"x-shoal-caller" not in body
    until(
        "beta is known", lambda: b"pets.production/none is not on this host" in hear(alpha, said, source=beta.address)
    )


def test_a_flood_at_the_inbound_port_leaves_the_rest_alone(mesh: Mesh) -> None:
    """Every connection that strangers may have is taken and silent: local services and agents do not notice, and those
    that say nothing are cut."""
    extra = 'workers = 1\n[limits]\nmax_connections = 40\nhead_timeout = "2s"\n'
    alpha = mesh.agent("alpha", extra=extra)
    beta = mesh.agent("beta", "127.0.0.2", extra="workers = 1\n")
    port = mesh.instance(alpha)
    until("beta knows", lambda: mesh.healthy(beta, "pets.production", port))
    flood = [
        socket.create_connection((alpha.address, alpha.inbound), timeout=10, source_address=(STRANGER, 0))
        for _ in range(60)
    ]
    try:
        for _ in range(20):
            assert alpha.ask().status == 200
            assert beta.ask().status == 200, "through alpha's inbound listener"
        began = time.monotonic()
        for sock in flood:
            while sock.recv(4096):
                pass
        assert time.monotonic() - began < 30
    finally:
        for sock in flood:
            sock.close()
    assert hear(alpha, b"GET / HTTP/1.1\r\nHost: pets.production\r\n\r\n").startswith(b"HTTP/1.1 200")
    quiet(alpha)


def test_ranges_of_the_settings_are_believed(mesh: Mesh) -> None:
    """An agent whose connections come from another address than it registered, named in the other's settings."""
    alpha = mesh.agent("alpha", extra="workers = 1\n")
    text = alpha.path.read_text()
    alpha.stop()
    alpha.path.write_text(text.replace("[inbound]\n", f'[inbound]\nagents = ["{STRANGER}/32"]\n'))
    alpha.start()
    mesh.instance(alpha)
    said = b"GET / HTTP/1.1\r\nHost: pets.production\r\nX-Shoal-Caller: web.production\r\nConnection: close\r\n\r\n"
    assert b'"x-shoal-caller": "web.production"' in json.dumps(json.loads(say_whole(alpha, said))["headers"]).encode()
    assert b"x-shoal-caller" not in say_whole(alpha, said, "127.0.0.67")


def say_whole(agent: AgentProcess, data: bytes, source: str = STRANGER) -> bytes:
    """The body of the answer to a request that closes."""
    with socket.create_connection((agent.address, agent.inbound), timeout=10, source_address=(source, 0)) as sock:
        sock.sendall(data)
        found = b""
        while piece := sock.recv(65536):
            found += piece
        return found.partition(b"\r\n\r\n")[2]
