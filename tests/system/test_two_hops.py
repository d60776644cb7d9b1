"""What lasts long, is answered early, or is rewritten, from one host to another: as on one host."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

LONGER_S = 16.5
"""Than the default time for an answer to begin."""
SERVICE = "pets.production"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


@contextmanager
def serving(address: str, answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A service that does with each connection what `answer` does; its port."""
    listening = socket.create_server((address, 0))

    def one(taken: socket.socket) -> None:
        try:
            answer(taken)
        except OSError:
            pass
        finally:
            taken.close()

    def run() -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(taken,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def head_of(sock: socket.socket) -> tuple[bytes, bytes]:
    """A request's head, and what of the body came along."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise OSError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def two(mesh: Mesh, port_of: int, logs: Path | None = None) -> AgentProcess:
    """The caller's agent; the instance is another host's. `logs`: where both write requests down."""
    logged = {
        host: f'[[records.sinks]]\nname = "file"\nto = "{logs}/{host}.requests"\nkinds = ["access"]\n' if logs else ""
        for host in ("alpha", "beta")
    }
    alpha, beta = mesh.agent(local=logged["alpha"]), mesh.agent("beta", "127.0.0.2", local=logged["beta"])
    beta.register(SERVICE, port_of, health={"tcp": {}, "interval": "1s"})
    until("known", lambda: mesh.healthy(alpha, SERVICE, port_of))
    return alpha


def test_what_lasts_longer_than_any_default_is_not_cut(mesh: Mesh) -> None:
    """An upload, a download and events, each for longer than an answer may take to begin, while bytes flow."""

    def answer(sock: socket.socket) -> None:
        head, rest = head_of(sock)
        if head.startswith(b"POST"):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            got = len(rest)
            while got < length:
                piece = sock.recv(65536)
                if not piece:
                    return
                got += len(piece)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        ends = time.monotonic() + LONGER_S
        while time.monotonic() < ends:
            sock.sendall(b"6\r\ndata\n\n\r\n")
            time.sleep(0.25)
        sock.sendall(b"3\r\nend\r\n0\r\n\r\n")

    def upload(alpha: AgentProcess, found: list[str]) -> None:
        connection = http.client.HTTPConnection(alpha.address, alpha.outbound, timeout=60)
        pieces = int(LONGER_S / 0.25)
        connection.putrequest("POST", "/", skip_host=True)
        connection.putheader("Host", SERVICE)
        connection.putheader("Content-Length", str(pieces * 1000))
        connection.endheaders()
        for _ in range(pieces):
            connection.send(b"x" * 1000)
            time.sleep(0.25)
        response = connection.getresponse()
        found.append(f"{response.status} {response.read()!r}")
        connection.close()

    def events(alpha: AgentProcess, found: list[str]) -> None:
        connection = http.client.HTTPConnection(alpha.address, alpha.outbound, timeout=60)
        connection.request("GET", "/", headers={"Host": SERVICE})
        response = connection.getresponse()
        found.append(f"{response.status} {response.read()[-3:]!r}")
        connection.close()

    with serving("127.0.0.2", answer) as port:
        alpha = two(mesh, port)
        found: list[str] = []
        threads = [threading.Thread(target=each, args=(alpha, found)) for each in (upload, events)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert sorted(found) == ["200 b'end'", "200 b'ok'"]


@pytest.mark.parametrize("size", [100_000, 20_000_000])
def test_an_upload_that_is_refused_early_is_told_so(mesh: Mesh, size: int) -> None:
    """Not that the service is broken: the answer came before the request was read, and a close behind it."""

    def answer(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")

    with serving("127.0.0.2", answer) as port:
        alpha = two(mesh, port)
        seen = []
        for _ in range(20):
            with socket.create_connection((alpha.address, alpha.outbound), timeout=20) as client:
                client.sendall(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (SERVICE.encode(), size))
                sender = threading.Thread(target=_send, args=(client, size), daemon=True)
                sender.start()
                seen.append(_answer_of(client))
                sender.join(20)
        assert seen == ["413 large"] * 20
        endpoint = alpha.state()["services"][SERVICE]["endpoints"][0]
        assert not endpoint["ejected"]


def _send(client: socket.socket, size: int) -> None:
    try:
        for _ in range(size // 50_000):
            client.sendall(b"x" * 50_000)
    except OSError:
        pass  # refused meanwhile


def _answer_of(client: socket.socket) -> str:
    data = b""
    try:
        while not data.endswith(b"large") and (piece := client.recv(65536)):
            data += piece
    except ConnectionResetError:
        pass
    if not data:
        return "nothing"
    head, _, body = data.rpartition(b"\r\n\r\n")
    return f"{head.split(b' ', 2)[1].decode()} {body.decode()}"


def test_a_rewritten_host_reaches_another_host(mesh: Mesh) -> None:
    """The example of the page: the instance hears the name that the rule gives it."""

    def answer(sock: socket.socket) -> None:
        while True:
            head, _ = head_of(sock)
            (host,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"host:")]
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(host), host))

    with serving("127.0.0.2", answer) as port:
        alpha = two(mesh, port)
        mesh.put(f"policies/route/{SERVICE}", {"rules": [{"rewrite": {"host": "legacy.example.com"}}]})
        assert alpha.ask().body.lower() == b"host: legacy.example.com"


def test_what_fails_there_is_told_here(mesh: Mesh, tmp_path: Path) -> None:
    """Each host's records have the same flag and reason, and the caller's counters the kind of each failure."""

    def answer(sock: socket.socket) -> None:
        head, _ = head_of(sock)
        if head.startswith(b"GET /reset "):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif head.startswith(b"GET /junk "):
            sock.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
        else:
            time.sleep(3.0)

    wanted = {"/reset": "service.reset", "/junk": "service.broken", "/hang": "service.timeout"}
    kinds = {"reset": "reset", "bad_response": "broken", "timeout": "timeout"}
    with serving("127.0.0.2", answer) as port:
        alpha = two(mesh, port, tmp_path)
        mesh.put(f"policies/retry/{SERVICE}", {"attempts": 1})
        mesh.put(f"policies/timeout/{SERVICE}", {"request": "1s"})
        until("in force", lambda: "retry" in str(alpha.state()["services"][SERVICE]))
        mesh.shoal("--admin", str(alpha.socket), "wait")
        reasons = {path: alpha.ask(path=path).headers["x-shoal-reason"] for path in wanted}
        for host in ("alpha", "beta"):
            found = until(f"records of {host}", lambda host=host: _records(tmp_path / f"{host}.requests", len(wanted)))
            assert {row["target"]: row["flag"] for row in found} == wanted
            assert all(row["first_byte_s"] is None for row in found)
            if host == "alpha":
                assert {row["target"]: row["why"] for row in found} == reasons
                assert {row["failed"][0].partition(": ")[2] for row in found} == {
                    *("broken off", "a broken answer", "no answer in time")
                }
        lines = alpha.text("/metrics").splitlines()
        for kind, flag in kinds.items():
            assert f'shoal_attempts_failed_total{{kind="{kind}",service="{SERVICE}"}} 1.0' in lines
            assert f'shoal_requests_flagged_total{{flag="service.{flag}",hop="first",service="{SERVICE}"}} 1.0' in lines


def _records(path: Path, many: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return rows if len(rows) == many else []
