"""A program under `shoal run` and what is outside of the mesh: real sockets, a real resolver, a real etcd."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, running_mesh, until

PROGRAM = """
import os, sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": os.environ["HTTP_PROXY"]}))
for url in sys.argv[1:]:
    try:
        answer = opener.open(url, timeout=60)
        print(answer.status, answer.read()[:7])
    except urllib.error.HTTPError as error:
        print(error.code, error.headers["x-shoal-policy"])
        error.close()
"""


class Outside(BaseHTTPRequestHandler):
    """Somebody who knows nothing of the mesh."""

    def do_GET(self) -> None:
        ours = [name for name in self.headers if name.lower().startswith(("x-shoal", "x-forwarded", "proxy"))]
        body = b"leaked!" if ours else b"outside"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.7", 0), Outside)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.7:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def called(mesh: Mesh, agent: AgentProcess, *urls: str) -> list[str]:
    """What a program under `shoal run` is answered."""
    environment = {**os.environ, "SHOAL_ADMIN": str(agent.socket), "SHOAL_ETCD": mesh.etcd.url}
    done = subprocess.run(
        [*SHOAL, "run", "--service", "web.production", "--spread", "1", "--", sys.executable, "-c", PROGRAM, *urls],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_program_reaches_what_is_outside(mesh: Mesh, outside: str) -> None:
    """And its mesh by the same proxy; a document shuts the one, and leaves the other."""
    agent = mesh.agent()
    mesh.instance(agent)
    until("a healthy instance", lambda: agent.ask().status == 200)
    pets, metadata = "http://pets.production/", "http://169.254.169.254/"
    told = called(mesh, agent, outside, pets, metadata, f"http://127.0.0.9:{agent.outbound}/")
    assert [line.split()[0] for line in told] == ["200", "200", "403", "508"]
    assert told[0] == "200 b'outside'"
    mesh.put("policies/egress/*", {"allow": []})
    told = called(mesh, agent, outside, pets)
    assert told[0] == "403 egress"
    assert told[1].startswith("200 ")
    until("counted", lambda: 'shoal_refused_unrouted_total{policy="egress"}' in agent.text("/metrics"))
