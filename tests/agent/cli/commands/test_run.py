"""`shoal run` as a process, against an agent that only answers what the test wants."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.mesh import ROOT, SHOAL, until
from tests.support.proxy import refusing_port

PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
open(sys.argv[1], "w").write(os.environ["PORT"])
time.sleep(60)
"""


class Admin(BaseHTTPRequestHandler):
    """POST registers, DELETE deregisters at revision 7; answers while the gate is open."""

    def answer(self) -> None:
        told = {"id": "one", "token": "t", "proxy": ""} if self.command == "POST" else {"revision": 7}
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        self.server.gate.wait(60)  # type: ignore[attr-defined]
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Admin)
    server.asked = []  # type: ignore[attr-defined]
    server.gate = threading.Event()  # type: ignore[attr-defined]
    server.gate.set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.gate.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def run(
    admin: HTTPServer, log: Path, *program: str, before: Sequence[str] = (), options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """`before`: what starts it, such as `nohup`."""
    environment = {
        **os.environ,
        "SHOAL_ADMIN": f"http://127.0.0.1:{admin.server_address[1]}",
        "SHOAL_ETCD": f"http://127.0.0.1:{refusing_port()}",
    }
    with open(log, "wb") as stderr:
        return subprocess.Popen(
            [*before, *SHOAL, "run", "--service", "pets", "--etcd-timeout", "0.2", *options, "--", *program],
            cwd=ROOT,
            env=environment,
            stderr=stderr,
        )


def test_a_program_is_ended_though_etcd_is_away(admin: HTTPServer, tmp_path: Path) -> None:
    """Nobody can be heard, so nobody is waited for: the program gets its signal, and its exit code is told."""
    log, port = tmp_path / "log", tmp_path / "port"
    process = run(admin, log, sys.executable, "-c", PROGRAM, str(port))
    until("running", lambda: port.exists() and port.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 7
    lines = log.read_text().splitlines()
    assert lines[0] == f"shoal run: pets/one on port {port.read_text()}"
    assert lines[1].startswith("shoal run: nobody can be heard: etcd cannot be asked")
    assert len(lines) == 2
    assert admin.asked[-1] == ("DELETE", "/api/v1/instances/pets/one")  # type: ignore[attr-defined]


def test_a_killed_program_tells_as_a_shell_would(admin: HTTPServer, tmp_path: Path) -> None:
    """128 and the number of the signal; it is deregistered, and said what became of it."""
    process = run(admin, tmp_path / "log", "/bin/sh", "-c", "kill -9 $$")
    assert process.wait(30) == 137
    how = "its+program+was+killed+by+signal+9+%28SIGKILL%29"
    assert admin.asked[-1] == ("DELETE", f"/api/v1/instances/pets/one?died={how}")  # type: ignore[attr-defined]
    said = (tmp_path / "log").read_text()
    assert "pets/one: the program was killed by signal 9 (SIGKILL); it is taken out of the mesh" in said


@pytest.mark.parametrize(
    ("ends", "died", "said"),
    [
        ("exit 0", "", ""),
        ("exit 3", "?died=its+program+ended+with+exit+code+3", "the program ended with exit code 3"),
        ("kill -TERM $$", "", "the program was killed by signal 15 (SIGTERM)"),
        ("exit 130", "", "the program ended with exit code 130"),
    ],
)
def test_how_a_program_ends_is_told_apart(admin: HTTPServer, tmp_path: Path, ends: str, died: str, said: str) -> None:
    """One that has done its work, and one that somebody has told to end, leaves in order."""
    run(admin, tmp_path / "log", "/bin/sh", "-c", ends).wait(30)
    assert admin.asked[-1] == ("DELETE", f"/api/v1/instances/pets/one{died}")  # type: ignore[attr-defined]
    log = (tmp_path / "log").read_text()
    assert said in log and ("taken out of the mesh" in log) == bool(said)


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("missing", None, 127, "No such file or directory"),
        ("plain", "#!/bin/sh\n", 126, "Permission denied"),
        ("no/folder", None, 127, "No such file or directory"),
        ("noise", "\x00\x01", 126, "Exec format error"),
    ],
)
def test_a_program_that_cannot_be_started_ends_as_elsewhere(
    admin: HTTPServer, tmp_path: Path, name: str, content: str | None, code: int, said: str
) -> None:
    """127 where there is none, 126 where it cannot be run. It was registered first, for it needs its credentials; so it
    is deregistered."""
    program = tmp_path / name
    if content is not None:
        program.write_text(content)
        program.chmod(0o755 if said.startswith("Exec") else 0o644)
    process = run(admin, tmp_path / "log", str(program))
    assert process.wait(30) == code
    assert f"cannot run '{program}': {said}" in (tmp_path / "log").read_text()
    assert admin.asked[-1] == ("DELETE", "/api/v1/instances/pets/one")  # type: ignore[attr-defined]


def test_output_is_kept_by_way_of_the_socket_only(admin: HTTPServer, tmp_path: Path) -> None:
    """Said before anything is registered."""
    process = run(admin, tmp_path / "log", "/bin/true", options=["--logs"])
    assert process.wait(30) == 2
    assert "--logs: takes the agent's own socket" in (tmp_path / "log").read_text()
    assert admin.asked == []  # type: ignore[attr-defined]
