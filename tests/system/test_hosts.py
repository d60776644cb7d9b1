"""Three hosts with networks of their own: two with agents, and a stranger who reaches the port of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Hosts, hosts, needs_namespaces, relay
from tests.support.mesh import SERVICE_PROGRAM, AgentProcess, Mesh, running_mesh, until

pytestmark = needs_namespaces
SAY = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as sock:
    sock.sendall(sys.stdin.buffer.read())
    while data := sock.recv(65536):
        sys.stdout.buffer.write(data)
"""
PORT = 8080
QUESTION = b"POST /shares HTTP/1.1\r\nHost: agent.shoal\r\nConnection: close\r\nContent-Length: 1\r\n\r\n\x90"


class Network:
    """alpha is where the test is; beta and the stranger hang on it."""

    def __init__(self, made: Hosts, mesh: Mesh, etcd: str, alpha: str, beta: str, stranger: str) -> None:
        self.hosts = made
        self.mesh = mesh
        self.stranger = stranger
        self.alpha = mesh.agent("alpha", alpha)
        self.beta = mesh.agent("beta", beta, start=False)
        self.beta.path.write_text(self.beta.path.read_text().replace(mesh.etcd.url, etcd))
        self.beta.on = made.on(beta)
        self.beta.start()

    def serve(self, agent: AgentProcess, service: str, version: str) -> None:
        """An instance beside an agent, which checks it."""
        words = [sys.executable, str(SERVICE_PROGRAM), "--address", agent.address, "--port", str(PORT)]
        with open(self.mesh.folder / "services.log", "ab") as log:
            process = subprocess.Popen([*agent.on, *words, "--version", version], stdout=log, stderr=log)
        self.mesh.services.append(process)
        agent.register(
            service,
            PORT,
            address=agent.address,
            version=version,
            health={"http": {"path": "/health"}, "interval": "200ms"},
        )
        until("healthy", lambda: self._knows(service, agent.address))

    def _knows(self, service: str, address: str) -> bool:
        found = self.alpha.state()["services"][service]["endpoints"]
        return any(endpoint["healthy"] and endpoint["address"] == address for endpoint in found)

    def says(self, agent: AgentProcess, data: bytes) -> bytes:
        """What an agent's inbound listener answers the stranger."""
        command = [*self.hosts.on(self.stranger), sys.executable, "-c", SAY, agent.address, str(agent.inbound)]
        return subprocess.run(command, input=data, capture_output=True, timeout=20, check=True).stdout


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with hosts() as made:
        alpha, beta = made.add(1)
        _, stranger = made.add(2)
        with running_mesh(tmp_path) as mesh, relay(alpha, ("127.0.0.1", int(mesh.etcd.url.rpartition(":")[2]))) as port:
            yield Network(made, mesh, f"http://{alpha}:{port}", alpha, beta, stranger)


def test_an_agent_is_believed_and_a_stranger_is_not(network: Network) -> None:
    """By the address that it comes from: the same bytes are a question from one, and 403 from the other."""
    network.serve(network.beta, "pets.production", "v1")
    answer = network.alpha.ask()  # across the cable, by way of beta's agent
    assert (answer.status, answer.version) == (200, "v1")
    head = b"GET / HTTP/1.1\r\nHost: pets.production\r\nConnection: close\r\n%b\r\n"
    words = b"x-shoal-caller: payments.production\r\nx-shoal-endpoint: pets.production/nobody\r\nx-shoal-explain: 1\r\n"
    network.serve(network.alpha, "pets.production", "v2")
    told = network.says(network.alpha, head % words)
    assert told.startswith(b"HTTP/1.1 200") and b"explain" not in told.lower()
    refused = network.says(network.alpha, QUESTION)
    assert refused.startswith(b"HTTP/1.1 403")
    mine = subprocess.run(
        [sys.executable, "-c", SAY, network.beta.address, str(network.beta.inbound)],
        input=QUESTION,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert mine.stdout.startswith(b"HTTP/1.1 400")  # an agent's question, though it makes no sense


def test_what_only_shows_stays_on_its_host(network: Network) -> None:
    """The socket is a file, and the admin port where the settings put it: no other host registers anything."""
    code = f"import socket; socket.create_connection(('{network.alpha.address}', 15000), timeout=5)"
    done = subprocess.run(
        [*network.hosts.on(network.stranger), sys.executable, "-c", code], capture_output=True, text=True, timeout=20
    )
    assert done.returncode and "refused" in done.stderr
    post = b"POST /api/v1/instances HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    command = [*network.hosts.on(network.stranger), sys.executable, "-c", SAY]
    told = subprocess.run(
        [*command, network.alpha.address, str(network.alpha.admin)], input=post, capture_output=True, timeout=20
    ).stdout
    assert told.startswith(b"HTTP/1.1 403")
