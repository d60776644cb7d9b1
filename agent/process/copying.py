"""Copies what a program of `shoal run --logs` says to where it would go without, and tells the agent of it, by lines.

    program ─▶ a pipe each ─▶ a thread each ─▶ our own standard output, standard error, byte by byte
                                    └▶ Held ─▶ a thread ─▶ POST to the agent's socket

It is a process of its own, and lives until nobody has the pipes: who kills `shoal run` costs the program nothing.

Laws
- Where the output goes comes first. Who is slow to read it is waited for, as without us; of one who is gone the program
  hears, as without us. Nobody waits for the agent, whatever becomes of it.
- Everything has a bound, and every line a number: what is dropped is a number that nobody has.
- The agent says up to which number it knows; what it does not know is told again, to a successor of one that was killed
  as well.
- Only the standard library is here: this file is started as `python -I -S`, which takes 15 ms and 9 MB.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final, NamedTuple

STDOUT: Final = 1
STDERR: Final = 2
RUN: Final = 0
"""What is told as of this stream are words of ours: STARTED, and ENDED."""
STARTED: Final = "it was started"
ENDED: Final = "its output has ended"
CHUNK_BYTES: Final = 64 * 1024
WAITING_BYTES: Final = 256 * 1024
"""Of output that is not read into lines yet."""
PIECE_BYTES: Final = 128
"""What a piece of it costs beside its text: a program may write byte by byte."""
MOST_LINES: Final = 4000
"""Of one chunk: a chunk of nothing but ends of lines is not worth the time."""
KEPT_BYTES: Final = 128 * 1024
"""Of lines as they are told, whether the agent knows them or not."""
MOST_LINE_BYTES: Final = 8 * 1024
MOST_ODD_BYTES: Final = 2 * 1024
"""Of a line that is no UTF-8, each byte of which may become four characters."""
POST_S: Final = 2.0
AGAIN_S: Final = 1.0
"""After how long an agent is asked again that has not taken what it was told."""
COME_BY_S: Final = 5.0
"""Who has nothing to say comes by so often, for an agent that has been restarted."""
LAST_WORDS_S: Final = 2.0
"""For how long it is asked to take the end."""
MOST_ANSWER_BYTES: Final = 64 * 1024


class Skipped:
    """Output of a stream that is left out: how many lines end in it, and how much is behind the last end."""

    __slots__ = ("ends", "rest")

    def __init__(self) -> None:
        self.ends = 0
        self.rest = 0

    def add(self, chunk: bytes) -> None:
        """And this behind it."""
        ends = chunk.count(b"\n")
        self.ends += ends
        self.rest = len(chunk) - chunk.rindex(b"\n") - 1 if ends else self.rest + len(chunk)


class Begun:
    """A line that has not ended."""

    __slots__ = ("at", "cut", "text", "torn")

    def __init__(self, *, torn: bool = False) -> None:
        """`torn`: its beginning was left out, and it is one of the lost when it ends."""
        self.torn = torn
        self.at = 0.0
        self.text = b""
        self.cut = 0

    def add(self, piece: bytes, at: float) -> None:
        """More of it."""
        self.at = self.at or at
        room = MOST_LINE_BYTES - len(self.text) if not self.cut else 0
        self.text += piece[:room]
        self.cut += max(0, len(piece) - room)


def readable(line: bytes, cut: int) -> tuple[str, int]:
    """Its text, and how many bytes are cut in all. What is no UTF-8 is there as escapes; half a character where it was
    cut is cut, too."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    text = decoder.decode(line, final=not cut)
    cut += len(decoder.getstate()[0])
    if len(text) > MOST_LINE_BYTES:
        text, cut = line[:MOST_ODD_BYTES].decode("utf-8", "backslashreplace"), cut + len(line) - MOST_ODD_BYTES
    return text, cut


class Batch(NamedTuple):
    """What is told at once."""

    lines: list[str]
    """JSON of each: number, time, stream, text, and how many more bytes it had."""
    next: int
    """The number behind it: those that are not among the lines are lost."""
    begins: bool
    """Whether there is nothing before it."""


class Held:
    """What was said lately. `add` may be called by any thread, everything else by one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: deque[tuple[float, int, bytes]] = deque()
        self._size = 0
        self._skipped = {STDOUT: Skipped(), STDERR: Skipped()}
        self._begun = {STDOUT: Begun(), STDERR: Begun()}
        self._kept: deque[tuple[int, str]] = deque()
        self._kept_size = 0
        self.next = 0
        """The number of the next line."""

    def add(self, stream: int, chunk: bytes, at: float) -> None:
        """Output, as it came."""
        with self._lock:
            self._chunks.append((at, stream, chunk))
            self._size += len(chunk) + PIECE_BYTES
            while self._size > WAITING_BYTES:
                _, of, oldest = self._chunks.popleft()
                self._size -= len(oldest) + PIECE_BYTES
                self._skipped[of].add(oldest)

    def say(self, text: str, at: float) -> None:
        """A word of ours, behind all lines that were read."""
        self._keep(at, RUN, text, 0)

    def read(self) -> None:
        """Make lines of what has come."""
        with self._lock:
            chunks, self._chunks, self._size = self._chunks, deque(), 0
            skipped, self._skipped = self._skipped, {STDOUT: Skipped(), STDERR: Skipped()}
        for stream, left_out in skipped.items():
            self._skip(stream, left_out)
        for at, stream, chunk in chunks:
            self._read(stream, chunk, at)

    def end(self, at: float) -> None:
        """Nothing more comes: what has begun is a line, too."""
        self.read()
        for stream, begun in self._begun.items():
            if begun.text or begun.cut or begun.torn:
                self._end(stream)
        self.say(ENDED, at)

    def batch(self, after: int) -> Batch:
        """What comes from a number on; all of it is kept until it makes way."""
        lines = [text for number, text in self._kept if number >= after]
        return Batch(lines, self.next, len(lines) == len(self._kept))

    def _read(self, stream: int, chunk: bytes, at: float) -> None:
        pieces = chunk.rsplit(b"\n", MOST_LINES)
        if b"\n" in pieces[0]:
            skipped = Skipped()
            skipped.add(pieces[0] + b"\n")
            self._skip(stream, skipped)
            del pieces[0]
        for piece in pieces[:-1]:
            self._begun[stream].add(piece, at)
            self._end(stream)
        if pieces[-1]:
            self._begun[stream].add(pieces[-1], at)

    def _skip(self, stream: int, skipped: Skipped) -> None:
        if skipped.ends:
            self.next += skipped.ends
            self._begun[stream] = Begun(torn=skipped.rest > 0)
        else:
            self._begun[stream].cut += skipped.rest

    def _end(self, stream: int) -> None:
        begun, self._begun[stream] = self._begun[stream], Begun()
        if begun.torn:
            self.next += 1
        else:
            self._keep(begun.at or time.time(), stream, *readable(begun.text, begun.cut))

    def _keep(self, at: float, stream: int, text: str, cut: int) -> None:
        line = json.dumps([self.next, round(at, 3), stream, text, cut], ensure_ascii=False)
        self._kept.append((self.next, line))
        self._kept_size += len(line.encode())
        self.next += 1
        while self._kept_size > KEPT_BYTES:
            self._kept_size -= len(self._kept.popleft()[1].encode())


def copy(source: int, target: int, keep: Any) -> None:
    """Everything, until nobody writes any more, or nobody reads. `keep` hears of each chunk."""
    while chunk := os.read(source, CHUNK_BYTES):
        keep(chunk)
        if not written(target, chunk):
            break
    os.close(source)
    os.dup2(os.open(os.devnull, os.O_WRONLY), target)  # whoever reads it hears of its end, as without us


def written(target: int, chunk: bytes) -> bool:
    """Write it all; False where nobody reads any more. What a full disk does not take is lost, as without us."""
    left = memoryview(chunk)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:  # whoever we have it from has made it so
            select.select([], [target], [])
        except OSError as error:
            return error.errno not in (errno.EPIPE, errno.ECONNRESET)
    return True


class Teller:
    """Tells an agent of one program's lines."""

    def __init__(self, path: str, service: str, instance: str) -> None:
        self._path = path
        self._target = f"/api/v1/instances/{service}/{instance}/output"
        self._run = os.urandom(4).hex()
        self._known = 0
        """Up to which number the agent has them."""
        self._ended = False
        self.held = Held()
        self.said = threading.Event()
        """There is something to tell."""
        self.over = threading.Event()

    def keep(self, stream: int, chunk: bytes) -> None:
        """Of a stream's thread."""
        self.held.add(stream, chunk, time.time())
        self.said.set()

    def run(self) -> None:
        """Until it is over, and the agent knows it, or does not want to."""
        self.held.say(STARTED, time.time())
        self.said.set()
        while not self.over.is_set():
            self.said.wait(COME_BY_S)
            self.said.clear()
            self.held.read()
            pause_s = self.tell()
            if self._known < self.held.next:
                self.said.set()
            self.over.wait(pause_s)
        self.held.end(time.time())
        self._ended = True
        until = time.monotonic() + LAST_WORDS_S
        while True:
            pause_s = self.tell()
            if self._known >= self.held.next or time.monotonic() > until:
                return
            time.sleep(min(pause_s, AGAIN_S / 4))

    def tell(self) -> float:
        """Once; after how long (s) it may be told more."""
        batch = self.held.batch(self._known)
        said = {"run": self._run, "next": batch.next, "begins": batch.begins, "ended": self._ended}
        body = f'{json.dumps(said)[:-1]}, "lines": [{", ".join(batch.lines)}]}}'.encode()
        try:
            status, answer = posted(self._path, self._target, body)
            told = json.loads(answer) if status == 200 else {}
            self._known, again_s = int(told["next"]), float(told["again_s"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return AGAIN_S
        return min(max(again_s, 0.0), 60.0)


def posted(path: str, target: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of an agent's answer. Raises OSError and ValueError."""
    head = (
        f"POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(POST_S)
        sock.connect(path)
        with suppress(BrokenPipeError):  # it has answered before it had read everything
            sock.sendall(head.encode() + body)
        answer = b""
        while len(answer) < MOST_ANSWER_BYTES and (piece := sock.recv(CHUNK_BYTES)):
            answer += piece
    first, _, told = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1] if b" " in first else b"0"), told


def main(path: str, service: str, instance: str, *pipes: str) -> None:
    """`path`: the agent's socket. `pipes`: descriptors to read from, of standard output and standard error."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # it ends with the program, which may have much to say before
    teller = Teller(path, service, instance)
    telling = threading.Thread(target=teller.run)
    telling.start()
    copying = [
        threading.Thread(target=copy, args=(int(pipe), stream, lambda chunk, of=stream: teller.keep(of, chunk)))
        for stream, pipe in zip((STDOUT, STDERR), pipes, strict=True)
    ]
    for thread in copying:
        thread.start()
    for thread in copying:
        thread.join()
    teller.over.set()
    teller.said.set()
    telling.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
