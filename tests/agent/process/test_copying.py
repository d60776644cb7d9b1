"""The process that copies a program's output: byte by byte to where it goes, by lines to an agent, and nobody waits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.process import copying
from agent.process.copying import ENDED, RUN, STARTED, STDERR, STDOUT, Held, Teller
from tests.support.mesh import until

QUICK = """
import os, sys
line = b"x" * 98 + b"\\n"
block = line * 1000
for _ in range({blocks}):
    os.write(1, block)
"""


def told(held: Held, after: int = 0) -> list[Any]:
    return [json.loads(line) for line in held.batch(after).lines]


def test_lines_are_of_their_stream_and_numbered() -> None:
    """However they come in pieces; a line begins when its first piece does, and what has begun at the end is one."""
    held = Held()
    held.say(STARTED, 1.0)
    for stream, chunk, at in ((STDOUT, b"one\ntw", 2.0), (STDERR, b"err", 3.0), (STDOUT, b"o\n\n", 4.0)):
        held.add(stream, chunk, at)
    held.read()
    assert told(held) == [
        [0, 1.0, RUN, STARTED, 0],
        [1, 2.0, STDOUT, "one", 0],
        [2, 2.0, STDOUT, "two", 0],
        [3, 4.0, STDOUT, "", 0],
    ]
    held.add(STDERR, b"or", 5.0)
    held.end(6.0)
    assert told(held, 4) == [[4, 3.0, STDERR, "error", 0], [5, 6.0, RUN, ENDED, 0]]
    assert held.batch(0).next == 6 and held.batch(0).begins and not held.batch(4).begins


def test_what_is_long_or_no_text_is_told_all_the_same() -> None:
    """Cut, and how much; bytes that are no UTF-8 as escapes."""
    held = Held()
    held.add(STDOUT, b"a" * 10_000 + b"\n\xff\xfe\x00ok\n", 1.0)
    held.read()
    long, garbage = told(held)
    assert long[3] == "a" * 8192 and long[4] == 10_000 - 8192
    assert garbage[3] == "\\xff\\xfe\x00ok" and garbage[4] == 0
    held.add(STDOUT, b"\xff" * 5000 + b"\n" + "ä".encode() * 5000 + b"\n" + b"a" + "ä".encode() * 5000 + b"\n", 2.0)
    held.read()
    odd, even, half = told(held, 2)
    assert odd[3:] == ["\\xff" * 2048, 5000 - 2048]
    assert even[3:] == ["ä" * 4096, 10_000 - 8192] and half[3:] == ["a" + "ä" * 4095, 10_001 - 8191]


def test_ends_of_lines_alone_take_no_time() -> None:
    """The last ones are told, and the others counted."""
    held = Held()
    for _ in range(4):
        held.add(STDOUT, b"\n" * copying.CHUNK_BYTES, 1.0)
    held.read()
    assert held.next == 4 * copying.CHUNK_BYTES and 0 < len(held.batch(0).lines) <= 4 * copying.MOST_LINES


chunks = st.lists(
    st.tuples(
        st.sampled_from((STDOUT, STDERR)),
        st.lists(st.integers(0, 200), max_size=8).map(lambda sizes: b"\n".join(b"y" * size for size in sizes)),
        st.booleans(),
    ),
    max_size=40,
)


@given(chunks)
def test_no_line_is_lost_uncounted(said: list[tuple[int, bytes, bool]]) -> None:
    """Whatever had to be left out: lines that are told and numbers that nobody has are all there were, and what is
    told of a stream was said in it, in this order."""
    held, bound = Held(), copying.WAITING_BYTES
    copying.WAITING_BYTES = 900  # type: ignore[misc]
    try:
        for stream, chunk, reads in said:
            held.add(stream, chunk, 1.0)
            if reads:
                held.read()
        held.end(1.0)
    finally:
        copying.WAITING_BYTES = bound  # type: ignore[misc]
    lines = told(held)
    numbers = [line[0] for line in lines]
    assert numbers == sorted(set(numbers))
    whole = {of: b"".join(chunk for stream, chunk, _ in said if stream == of) for of in (STDOUT, STDERR)}
    there = sum(text.count(b"\n") + (not text.endswith(b"\n") and text != b"") for text in whole.values())
    assert held.next == there + 1, "and the word that it has ended"
    for of, text in whole.items():
        ahead = iter(text.split(b"\n"))
        for line in lines:
            if line[2] == of and not line[4]:
                assert any(each == line[3].encode() for each in ahead)


def test_what_is_kept_has_a_bound() -> None:
    held = Held()
    for number in range(10_000):
        held.add(STDOUT, b"%050d\n" % number, 1.0)
        if number % 100 == 99:
            held.read()
    batch = held.batch(0)
    assert batch.next == 10_000 and not batch.lines[0].startswith("[0,")
    assert sum(len(line) for line in batch.lines) <= copying.KEPT_BYTES


class FakeAgent:
    """Takes lines as an agent does; hangs, or is away, when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Any] = []
        self.known = 0
        self.asked = 0
        self.ended = False
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen(8)
        self.answers = threading.Event()
        self.answers.set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._sock.settimeout(0.05)
        while not self._over.is_set():
            try:
                guest, _ = self._sock.accept()
            except TimeoutError:
                continue
            with guest:
                self.asked += 1
                while not self.answers.wait(0.05) and not self._over.is_set():
                    pass
                self._answer(guest)

    def _answer(self, guest: socket.socket) -> None:
        guest.settimeout(5)
        said = b""
        while b"\r\n\r\n" not in said:
            said += guest.recv(65536)
        head, _, body = said.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += guest.recv(65536)
        told = json.loads(body)
        if self.known or told["begins"]:
            self.lines += [line for line in told["lines"] if line[0] >= self.known]
            self.known = told["next"]
            self.ended = told["ended"]
        answer = json.dumps({"next": self.known, "again_s": 0.01}).encode()
        try:
            guest.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
        except OSError:
            pass  # it has gone meanwhile

    def forget(self) -> None:
        """It is another one."""
        self.known, self.lines = 0, []

    def end(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._sock.close()


@contextmanager
def fake_agent(path: Path) -> Iterator[FakeAgent]:
    made = FakeAgent(path)
    try:
        yield made
    finally:
        made.end()


@contextmanager
def copier(path: Path, out: Any, err: Any = subprocess.DEVNULL) -> Iterator[tuple[subprocess.Popen[bytes], Any, Any]]:
    """The process, and where a program writes. It ends with the block, when both are closed."""
    from_out, to_out = os.pipe()
    from_err, to_err = os.pipe()
    words = [sys.executable, "-I", "-S", copying.__file__, str(path), "pets", "one", str(from_out), str(from_err)]
    process = subprocess.Popen(words, stdout=out, stderr=err, pass_fds=(from_out, from_err))
    os.close(from_out)
    os.close(from_err)
    try:
        with open(to_out, "wb", buffering=0) as writes_out, open(to_err, "wb", buffering=0) as writes_err:
            yield process, writes_out, writes_err
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def test_every_byte_goes_on_and_every_line_is_told(tmp_path: Path) -> None:
    """In order, of both; and the last words, which have no end of line."""
    data = bytes(range(256)) * 40 + b"\nthe end"
    with (
        fake_agent(tmp_path / "agent") as agent,
        open(tmp_path / "out", "wb") as out,
        open(tmp_path / "err", "wb") as err,
    ):
        with copier(tmp_path / "agent", out, err) as (_, to_out, to_err):
            to_out.write(data)
            to_err.write(b"oh\n")
        assert (tmp_path / "out").read_bytes() == data and (tmp_path / "err").read_bytes() == b"oh\n"
        assert agent.ended and agent.lines[0][3] == STARTED and agent.lines[-1][3] == ENDED
        assert [line[3] for line in agent.lines if line[2] == STDERR] == ["oh"]
        assert [line[3] for line in agent.lines if line[2] == STDOUT][-1] == "the end"


def test_an_agent_that_is_another_is_told_all_that_is_kept(tmp_path: Path) -> None:
    """And once each: what one that was killed had acknowledged, too."""
    with fake_agent(tmp_path / "agent") as agent, copier(tmp_path / "agent", subprocess.DEVNULL) as (_, to_out, _err):
        to_out.write(b"one\ntwo\n")
        until("it is told", lambda: len(agent.lines) == 3)
        agent.forget()
        to_out.write(b"three\n")
        until("all of it", lambda: [line[3] for line in agent.lines] == [STARTED, "one", "two", "three"])
        assert [line[0] for line in agent.lines] == [0, 1, 2, 3]


def test_an_agent_that_hangs_or_is_away_holds_up_nobody(tmp_path: Path) -> None:
    """50 MB go through meanwhile; the lines that had no room are numbers that nobody has."""
    with fake_agent(tmp_path / "agent") as agent:
        agent.answers.clear()
        with open(tmp_path / "out", "wb") as out, copier(tmp_path / "agent", out) as (_, to_out, to_err):
            subprocess.run([sys.executable, "-c", QUICK.format(blocks=500)], stdout=to_out, check=True, timeout=60)
            until("it hangs", lambda: agent.asked > 0)
            to_out.close()
            until("all of it is there", lambda: (tmp_path / "out").stat().st_size == 500 * 99_000)
            agent.answers.set()
            to_err.close()
            until("the end", lambda: agent.ended)
    assert agent.known == 500_002 and len(agent.lines) < 5000
    with open(tmp_path / "out", "wb") as out, copier(tmp_path / "nobody", out) as (process, to_out, _err):
        subprocess.run([sys.executable, "-c", QUICK.format(blocks=10)], stdout=to_out, check=True, timeout=60)
    assert process.returncode == 0 and (tmp_path / "out").stat().st_size == 10 * 99_000


def test_the_program_hears_of_a_reader_who_is_gone(tmp_path: Path) -> None:
    """As it would without us: SIGPIPE; and its other stream goes on."""
    reading, writing = os.pipe()
    with open(tmp_path / "err", "wb") as err, copier(tmp_path / "nobody", writing, err) as (_, to_out, to_err):
        os.close(writing)
        os.close(reading)
        words = ["/bin/sh", "-c", "while echo x; do :; done"]
        done = subprocess.run(words, stdout=to_out, stderr=subprocess.DEVNULL, timeout=60, check=False)
        assert done.returncode != 0
        to_err.write(b"still\n")
    assert (tmp_path / "err").read_bytes() == b"still\n"


def test_what_a_slow_reader_gets_is_whole(tmp_path: Path) -> None:
    """Even where whoever has the other end of it has made it non-blocking."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with copier(tmp_path / "nobody", writing) as (_, to_out, _err):
        os.close(writing)
        program = subprocess.Popen([sys.executable, "-c", QUICK.format(blocks=20)], stdout=to_out)
        to_out.close()
        size = 0
        while piece := os.read(reading, 4096):
            size += len(piece)
        assert program.wait(20) == 0 and size == 20 * 99_000
    os.close(reading)


def test_signals_do_not_end_it_before_the_program(tmp_path: Path) -> None:
    """A service manager tells the whole unit to end, and the program has last words."""
    with open(tmp_path / "out", "wb") as out, copier(tmp_path / "nobody", out) as (process, to_out, _err):
        to_out.write(b"one\n")
        until("it runs", lambda: (tmp_path / "out").stat().st_size == 4)
        for number in (1, 2, 15):
            process.send_signal(number)
        to_out.write(b"two\n")
        until("it still copies", lambda: (tmp_path / "out").stat().st_size == 8)


def test_garbage_of_an_agent_is_no_answer(tmp_path: Path) -> None:
    """It is asked again, later."""
    for answer in (
        b"",
        b"\xff\x00",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\n\r\n{"next": "x"}',
        b"HTTP/1.1 503 X\r\n\r\n{}",
    ):
        path = tmp_path / f"agent-{time.monotonic_ns()}"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            sock.listen(1)

            def once(sock: socket.socket = sock, answer: bytes = answer) -> None:
                guest, _ = sock.accept()
                with guest:
                    guest.recv(65536)
                    guest.sendall(answer)

            thread = threading.Thread(target=once)
            thread.start()
            teller = Teller(str(path), "pets", "one")
            teller.held.say(STARTED, 1.0)
            assert teller.tell() == copying.AGAIN_S
            thread.join(10)
