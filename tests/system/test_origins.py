"""Instances that speak TLS themselves, beside a real agent and beside none: checked, dialled, shown what they want."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import Mesh, Traffic, running_mesh, until
from tests.support.web_pki import NAME, certificate, kept, root, server_context

SERVICE = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path, new=False) as running:
        yield running


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        connection: Any = self.connection
        shown = connection.getpeercert() or {"subject": [[["", "nobody"]]]}
        said = str(shown["subject"][0][0][1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Who is not believed closes."""


@contextmanager
def serving(context: ssl.SSLContext, address: str = "127.0.0.1") -> Iterator[int]:
    """A server of TLS on a port of its own."""
    server = Quiet((address, 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def document(**fields: Any) -> dict[str, Any]:
    return {"mtls": "permissive", "origin": {"speaks": "tls", "name": NAME, "ca": root(), **fields}}


def reasons(mesh: Mesh) -> str:
    """What is said of the health of instances."""
    return mesh.etcdctl("get", "--prefix", "/shoal/default/health/")


def test_it_is_checked_and_asked(mesh: Mesh, tmp_path: Path) -> None:
    """By the agent beside it, for callers there and on another host, while documents and certificates change."""
    shown = tmp_path / "shown"
    shown.mkdir()
    folder = f'[origins]\ncertificates_dir = "{shown}"\n'
    alpha = mesh.agent(local=f"\n{folder}")
    beta = mesh.agent("beta", "127.0.0.2")
    with serving(server_context(tmp_path, clients=root())) as port:
        mesh.put(f"policies/health/{SERVICE}", {"http": {"path": "/"}, "interval": "100ms", "rise": 1, "fall": 1})
        mesh.put(f"policies/tls/{SERVICE}", document(client_certificate=True))
        alpha.register(SERVICE, port)
        until("why it is not healthy", lambda: "no client certificate for" in reasons(mesh))
        kept(shown / f"{SERVICE}.pem", certificate("our host", []))
        until("healthy", lambda: mesh.healthy(alpha, SERVICE, port))
        for agent in (alpha, beta):
            assert until("an answer", lambda agent=agent: agent.ask(SERVICE).status == 200)
            assert agent.ask(SERVICE).body == b"our host"
        with Traffic(beta) as traffic:
            kept(shown / f"{SERVICE}.pem", certificate("another host", []))
            until("the other certificate", lambda: beta.ask(SERVICE).body == b"another host")
            traffic.more(50)
        assert traffic.failures == []
        mesh.put(f"policies/tls/{SERVICE}", document(client_certificate=True, name="db.example"))
        until("not healthy", lambda: "Hostname mismatch" in reasons(mesh))
        answer = until("refused", lambda: (found := alpha.ask(SERVICE)).status == 503 and found)
        assert "Hostname mismatch" in answer.headers["x-shoal-reason"]
        assert "Hostname mismatch" in str(alpha.state()["handshakes_failed"])
        mesh.put(f"policies/tls/{SERVICE}", document(client_certificate=True))
        until("healthy again", lambda: mesh.healthy(alpha, SERVICE, port) and beta.ask(SERVICE).status == 200)


def test_beside_no_agent(mesh: Mesh, tmp_path: Path) -> None:
    """An instance that was put by hand is dialled by the caller's agent, also where hops have to be TLS."""
    alpha = mesh.agent()
    with serving(server_context(tmp_path)) as port:
        mesh.put(f"policies/tls/{SERVICE}", {**document(), "mtls": "strict"})
        mesh.put(f"instances/{SERVICE}/db", {"address": "127.0.0.1", "port": port})
        until("an answer", lambda: alpha.ask(SERVICE).status == 200)
        assert alpha.ask(SERVICE).body == b"nobody"
