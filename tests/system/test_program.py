"""`shoal logs --program`: what programs of two hosts say, whatever happens to agents, and to `shoal run` itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.process.copying import ENDED, STARTED, posted
from tests.support.local import ask
from tests.support.mesh import ROOT, SHOAL, AgentProcess, Mesh, running_mesh, until
from tests.support.users import ALICE, BOB, as_user, needs_root

CAROL = 54323

PETS = "pets.production"
PROGRAM = """
import http.server, os, signal, sys, threading
name = os.environ["SHOAL_INSTANCE"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
        words = self.path.split("/")
        if words[1] == "say": os.write(int(words[2]), (words[3] + "\\n").encode())
        if words[1] == "much":
            for _ in range(int(words[2])): os.write(1, b"%099d\\n" % 0 * 1000)
            os.write(1, b"that was much\\n")
    def log_message(self, *_): pass
def stop(*_):
    os.write(2, b"last words"); os._exit(3)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"up as " + name.encode() + b"\\n")
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


class Started:
    """`shoal run --logs`, with its output in a file each."""

    def __init__(self, mesh: Mesh, agent: AgentProcess, id: str, *more: str) -> None:
        program = mesh.folder / "program.py"
        program.write_text(PROGRAM)
        self.out, self.err = mesh.folder / f"{id}.out", mesh.folder / f"{id}.err"
        address = () if agent.address == "127.0.0.1" else ("--address", agent.address)
        words = ["--admin", str(agent.socket), "run", "--service", PETS, *more, *address]
        named = () if "--replicas" in more else ("--id", id)
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [*SHOAL, "--etcd", mesh.etcd.url, *words, *named, "--", sys.executable, str(program)],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Reader:
    """`shoal logs --program -f`."""

    def __init__(self, agent: AgentProcess, *words: str) -> None:
        command = [*SHOAL, "--admin", str(agent.socket), "-o", "json", "logs", PETS, "--program", "-f", *words]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[Any] = []
        self.notes: list[str] = []
        takes = (
            (self.process.stdout, lambda text: self.lines.append(json.loads(text))),
            (self.process.stderr, self.notes.append),
        )
        self._threads = [threading.Thread(target=self._read, args=each) for each in takes]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Any, take: Any) -> None:
        for line in stream:
            take(line.rstrip("\n"))

    def of(self, id: str, stream: str = "stdout") -> list[str]:
        return [each["text"] for each in list(self.lines) if each["instance"] == id and each["stream"] == stream]

    def noted(self, words: str) -> bool:
        return any(words in note for note in list(self.notes))

    def lost(self, id: str) -> int:
        notes = [note for note in list(self.notes) if note.endswith("that there was no room for") and f"/{id} " in note]
        return sum(int(note.split(": ")[1].split()[0]) for note in notes)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def running() -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for each in reversed(made):
        each.end()


def test_programs_of_two_hosts_are_followed_at_once(mesh: Mesh, running: list[Any]) -> None:
    """Their output goes where it went, byte by byte; both agents tell of it, each copy by its id. An agent that is
    killed costs no line, and none comes twice; nor does the end of `shoal run` by SIGKILL end what its program says. Of
    a program that writes faster than anybody reads every line is told or counted."""
    alpha = mesh.agent("alpha", "127.0.0.1", extra="workers = 1")
    beta = mesh.agent("beta", "127.0.0.2", extra="workers = 1", lease_ttl="3s")
    mesh.shoal("wait")
    reader = Reader(alpha)
    running.append(reader)
    until("it follows", lambda: reader.noted(f"following what programs of {PETS} write on alpha, beta"))
    first = Started(mesh, alpha, "a", "--logs", "--replicas", "2")
    second = Started(mesh, beta, "b", "--logs")
    plain = Started(mesh, alpha, "plain")
    running += [first, second, plain]
    until("b is told", lambda: reader.of("b") == ["up as b"] and reader.of("b", "run") == [STARTED])

    def copies() -> list[str]:
        return sorted({each["instance"] for each in list(reader.lines) if each["host"] == "alpha"})

    until("both copies", lambda: len(copies()) == 2)
    for id in copies():
        until(f"{id} is told", lambda id=id: reader.of(id) == [f"up as {id}"])
    until("the one that is not kept", lambda: reader.noted(f"alpha: {PETS}/plain: its output is not kept"))
    until("it wrote", lambda: plain.out.read_bytes() == b"up as plain\n")
    assert not any(reader.noted(f"{PETS}/{id}: its output") for id in ("b", *copies()))

    def port() -> int:
        return int(second.err.read_text().split("on port ")[1].split()[0])

    def b(path: str) -> None:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.2", port(), timeout=20)
        connection.request("GET", path)
        assert connection.getresponse().status == 200
        connection.close()

    b("/say/2/oh")
    until("in its stream", lambda: reader.of("b", "stderr") == ["oh"])

    beta.stop(signal.SIGKILL)
    b("/say/1/while-away")
    until("it is missed", lambda: reader.noted("beta is missing: ") or reader.noted("beta: gone from the mesh"))
    beta.start()
    b("/say/1/after")
    until("nothing is lost", lambda: reader.of("b") == ["up as b", "while-away", "after"])

    b("/much/300")
    until("the end of it", lambda: reader.of("b")[-1:] == ["that was much"])
    until("all is counted", lambda: len(reader.of("b")) + reader.lost("b") == 3 + 300_000 + 1)
    assert second.out.stat().st_size == len("up as b\nwhile-away\nafter\nthat was much\n") + 300_000 * 100

    reader.process.send_signal(signal.SIGSTOP)
    b("/much/300")
    reader.process.send_signal(signal.SIGCONT)
    until("who was slow counts it, too", lambda: len(reader.of("b")) + reader.lost("b") == 3 + 2 * 300_001)
    assert reader.of("b")[-1] == "that was much"

    second.process.kill()
    second.process.wait()
    b("/say/1/orphan")
    until("it goes on", lambda: reader.of("b")[-1:] == ["orphan"])
    assert second.out.read_bytes().endswith(b"that was much\norphan\n")
    os.kill(program_of(port()), signal.SIGTERM)
    until("its last words", lambda: reader.of("b", "stderr") == ["oh", "last words"])
    until("its end", lambda: reader.of("b", "run") == [STARTED, ENDED])
    assert second.err.read_bytes().endswith(b"last words")

    first.end()
    for id in copies():
        until("last words", lambda id=id: reader.of(id, "stderr") == ["last words"])
        assert reader.of(id, "run") == [STARTED, ENDED]

    def last(*words: str) -> list[Any]:
        asked = ("-o", "json", "logs", PETS, "--program", "--instance", "b", *words)
        found = json.loads(mesh.shoal("--admin", str(alpha.socket), *asked).stdout)["lines"]
        return [(each["host"], each["stream"], each["text"]) for each in found]

    assert last("-n", "2") == [("beta", "stderr", "last words"), ("beta", "run", ENDED)]
    assert last("-n", "1", "--stream", "stdout") == [("beta", "stdout", "orphan")]
    assert last("--contains", "was much")[-1:] == [("beta", "stdout", "that was much")]
    over_tcp = mesh.shoal("--admin", f"http://127.0.0.1:{alpha.admin}", "logs", PETS, "--program", check=False)
    assert over_tcp.returncode == 1 and "asked for through the agent's own socket" in over_tcp.stderr


def program_of(port: int) -> int:
    """The process that has this in its environment, and is no `shoal run`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"\0PORT={port}\0".encode() in b"\0" + environment:
            return int(entry.name)
    raise AssertionError(f"nobody was given port {port}")


@needs_root
def test_users_read_what_their_own_programs_say(mesh: Mesh) -> None:
    """And nobody else's, but who may tap; nor hand in lines of another's program."""
    agent = mesh.agent(local=f'tap = ["{CAROL}"]\n[local.services]\n"*" = ["{ALICE}", "{BOB}"]\n')
    path = f"/api/v1/instances/{PETS}/a/output"
    registered = {"service": PETS, "id": "a", "port": 1}
    assert as_user(ALICE, ask, str(agent.socket), "POST", "/api/v1/instances", registered).status == 200
    line = [0, 1.0, 1, "secret", 0]
    said = json.dumps({"run": "00000001", "lines": [line], "next": 1, "begins": True}).encode()
    assert as_user(BOB, posted, str(agent.socket), path, said)[0] == 403
    assert as_user(ALICE, posted, str(agent.socket), path, said)[0] == 200
    assert as_user(BOB, posted, str(agent.socket), path, said)[0] == 403
    assert as_user(ALICE, posted, str(agent.socket), path.replace("/a/", "/b/"), said)[0] == 403
    assert as_user(ALICE, posted, str(agent.socket), path.replace("/a/", "/b/"), said.replace(b"1", b"2"))[0] == 404
    assert as_user(ALICE, posted, str(agent.socket), path, b'{"run": "x"}')[0] == 400

    def reads(uid: int) -> Any:
        return as_user(uid, ask, str(agent.socket), "GET", "/api/v1/output?last=5").json

    assert [each["text"] for each in reads(ALICE)["hosts"]["alpha"]["items"]] == ["secret"]
    assert reads(BOB)["hosts"]["alpha"]["items"] == [] and reads(BOB)["own"]
    for everything in (ask(agent.socket, "GET", "/api/v1/output?last=5").json, reads(CAROL)):
        assert not everything["own"] and len(everything["hosts"]["alpha"]["items"]) == 1
    for wrong in ("stream=both", "last=-1", "next=%00", "service=a%2Fb"):
        assert ask(agent.socket, "GET", f"/api/v1/output?{wrong}").status == 400, wrong
    assert as_user(ALICE, ask, str(agent.socket), "DELETE", f"/api/v1/instances/{PETS}/a").status == 200
    more = json.dumps({"run": "00000001", "lines": [[1, 2.0, 2, "last words", 0]], "next": 2, "ended": True}).encode()
    until("it is gone", lambda: ask(agent.socket, "DELETE", f"/api/v1/instances/{PETS}/a").status == 404)
    assert as_user(ALICE, posted, str(agent.socket), path, more)[0] == 200
    assert [each["text"] for each in reads(ALICE)["hosts"]["alpha"]["items"]] == ["secret", "last words"]
