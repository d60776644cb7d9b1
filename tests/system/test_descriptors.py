"""A host that allows few descriptors: whoever cannot be served is told, at once, and nothing else breaks."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mesh import Mesh, running_mesh, until

SLOW = b"GET /slow?s=5 HTTP/1.1\r\nHost: pets.production\r\n\r\n"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as made:
        yield made


def answered(sock: socket.socket) -> int:
    """The status of an answer."""
    head = b""
    while b"\r\n" not in head:
        piece = sock.recv(65536)
        assert piece, f"closed without an answer: {head!r}"
        head += piece
    return int(head.split(b" ", 2)[1])


def test_more_clients_than_descriptors(mesh: Mesh) -> None:
    """Each is served or told 503, none is closed without a word, and the instance stays healthy."""
    alpha = mesh.agent("alpha", start=False, extra="workers = 1\n")
    alpha.on = ["prlimit", "--nofile=320"]
    alpha.start()
    port = mesh.instance(alpha)
    assert "descriptors=320 connections=48 wanted=20000" in alpha.log.read_text()
    assert alpha.state()["descriptors"] == {"limit": 320, "connections": 48, "connections_wanted": 20_000}
    socks = []
    found: Counter[int] = Counter()
    try:
        for _ in range(400):
            sock = socket.create_connection((alpha.address, alpha.outbound), timeout=30)
            socks.append(sock)
            sock.sendall(SLOW)
        found.update(map(answered, socks))
        assert found == {200: 48, 503: 352}
    finally:
        for sock in socks:
            sock.close()
    until("served again", lambda: alpha.ask().status == 200)
    assert mesh.healthy(alpha, "pets.production", port)
    log = alpha.log.read_text()
    assert "Traceback" not in log and "unhealthy" not in log
