"""One worker, as control sees it: its process, what is on its way to it, and how far it is."""

from __future__ import annotations

import time
from typing import Protocol

import msgspec
import trio

from agent import frames, framing
from agent.control.workers.process import Process
from agent.frames import ToWorker


class Feed(Protocol):
    """What a worker is told of the table."""

    def take(self, *, parts: bool) -> list[ToWorker]:
        """What is new since the last time, up to a commit; empty when nothing is. `parts`: the worker understands
        `Change`."""
        ...

    def close(self) -> None:
        """The worker is gone."""
        ...


class Rest(msgspec.Struct, frozen=True):
    """What is between a worker and control when control is executed anew."""

    heard: bytes = b""
    """Of the worker, not yet whole."""
    unsaid: bytes = b""
    """To the worker; the beginning of it may have been sent."""


class Worker:
    """One worker process and our end of its socket pair."""

    def __init__(
        self, index: int, process: Process, sock: trio.socket.SocketType, feed: Feed, rest: Rest | None = None
    ) -> None:
        """`rest`: of the process before, which talked to it."""
        rest = rest or Rest()
        self._feed = feed
        self._behind = False
        """Whether there is a commit that it has not yet taken into force."""
        self._changes = False
        """Whether it understands `Change`."""
        self._sound = True
        """Whether it has all that it was told."""
        self.index = index
        self.process = process
        self.socket = sock
        self.decoder = framing.Decoder(frames.to_control, rest.heard)
        self._unsaid = rest.unsaid
        """Of what is being written, what is not yet."""
        self.reading = trio.CancelScope()
        self.writing = trio.CancelScope()
        self.ready = False
        self.retired = False
        """Whether its last figures were heard."""
        self.closed = False
        self.revision = 0
        self.build = ""
        """As it said when it was ready: what runs, not what was meant to."""
        self.last_word = time.monotonic()
        self.heard = trio.Event()
        """Set when everything that it said has been read."""
        self.to_send, self.sending = trio.open_memory_channel[bytes](float("inf"))
        self.answers: dict[int, trio.MemorySendChannel[frames.Answer]] = {}
        self.unknown: set[str] = set()
        """Kinds of frames that it sent and that are not known here."""

    def on_ready(self, told: frames.Ready) -> None:
        """It serves."""
        self.ready, self.build, self._changes = True, told.build, told.changes

    def on_commit(self, told: frames.Runs) -> None:
        """It runs a commit, and is told what happened meanwhile."""
        self.revision, self._behind = told.revision, False
        if any(not refused.kind for refused in told.refused):
            self._sound = False  # who knows what it lacks: it is told of services as a whole from now on
        self.feed()

    def feed(self) -> None:
        """Tell it what it does not know of the table, unless it is still busy with what it was told before."""
        if self._behind:
            return
        told = self._feed.take(parts=self._changes and self._sound)
        if told:
            self._behind = True
            self.send(b"".join(map(framing.encode, told)))

    async def write(self) -> None:
        """Send what is queued, until it is gone or nobody is to talk to it any more."""
        with self.writing:
            try:
                while True:
                    while self._unsaid:
                        self._unsaid = self._unsaid[await self.socket.send(self._unsaid) :]
                    self._unsaid = await self.sending.receive()
            except (OSError, trio.ClosedResourceError, trio.EndOfChannel):
                self._unsaid = b""  # the death of the process tells the rest

    async def receive(self) -> bytes:
        """What it says next; empty when it says no more."""
        try:
            return await self.socket.recv(256 * 1024)
        except (OSError, trio.ClosedResourceError):
            return b""  # the death of the process tells the rest

    def hush(self) -> None:
        """Nothing more is read from it or written to it by this process."""
        self.reading.cancel()
        self.writing.cancel()

    def rest(self) -> Rest:
        """What the process that is executed next has to go on with."""
        unsaid = [self._unsaid]
        try:
            while True:
                unsaid.append(self.sending.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return Rest(self.decoder.rest, b"".join(unsaid))

    def close(self) -> None:
        """It is gone."""
        self.closed = True
        self._feed.close()
        self.to_send.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Queue bytes of whole frames."""
        try:
            self.to_send.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it died; its successor gets the whole table
