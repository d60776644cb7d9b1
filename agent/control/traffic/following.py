"""Requests as they end, for whoever asks: a stream for each filter that somebody follows (`streams`), and the last ones
recorded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import trio

from agent.control.asking.answering import Answering, Asker
from agent.control.traffic.streams import MOST_TOLD_BYTES, Streams
from agent.frames import Follow, Followed
from agent.requests.filter import REQUESTS, Filter, RequestsAsked, RequestsTold
from agent.requests.picking import Picker

MOST_STREAMS: Final = 16
LOOK_S: Final = 1.0
RECENT_BYTES: Final = 8 * 1024 * 1024
MOST_LAST: Final = 1000


class _Recent:
    """Records that were made for sinks, the last of them."""

    def __init__(self) -> None:
        self._batches: deque[bytes] = deque()
        self._bytes = 0

    def add(self, lines: bytes) -> None:
        self._batches.append(lines)
        self._bytes += len(lines)
        while self._bytes > RECENT_BYTES and len(self._batches) > 1:
            self._bytes -= len(self._batches.popleft())

    def batches(self) -> list[bytes]:
        """The oldest first."""
        return list(self._batches)


class Following:
    """One agent's."""

    def __init__(self, host: str, answering: Answering, *, recorded: bool) -> None:
        """`recorded`: whether anybody takes records of requests here."""
        self._recorded = recorded
        self._streams: Streams[Filter] = Streams(host, MOST_STREAMS, "filters are followed")
        self._recent = _Recent()
        answering.register(REQUESTS, self._answer)

    def connect(self, publish: Callable[[list[Follow]], None]) -> None:
        """Where workers are told who follows what."""
        self._streams.connect(lambda wanted: publish([Follow(wanted)]))

    @property
    def filters(self) -> int:
        """How many are followed."""
        return len(self._streams)

    @property
    def lost(self) -> int:
        """Requests that somebody followed, and that there was no room for."""
        return self._streams.lost

    def frames(self) -> list[Follow]:
        """What a new worker has to know."""
        return [Follow(self._streams.wanted())] if self._streams else []

    def on_records(self, lines: bytes) -> None:
        """Records for sinks."""
        self._recent.add(lines)

    def on_followed(self, told: Followed) -> None:
        """Of a worker; of a stream that is forgotten, as it is on its way."""
        self._streams.hear(told)

    async def run(self) -> None:
        """Forget who does not ask any more."""
        while True:
            await trio.sleep(LOOK_S)
            self.forget(time.monotonic())

    def forget(self, now: float) -> None:
        """Streams that nobody has asked for lately."""
        self._streams.forget(now)

    async def _answer(self, asked: RequestsAsked, _: Asker) -> RequestsTold:
        if asked.last:
            wanted = Picker(asked.filter)
            last = min(asked.last, MOST_LAST)
            lines = await trio.to_thread.run_sync(_last, self._recent.batches(), wanted, last, asked.most_bytes)
            return RequestsTold(lines, recorded=self._recorded)
        return self.read(asked, time.monotonic())

    def read(self, asked: RequestsAsked, now: float) -> RequestsTold:
        """What has ended since. Raises Refusal."""
        told = self._streams.read(asked.filter, asked.places, asked.most_bytes, now)
        return msgspec.structs.replace(told, recorded=self._recorded)


def _last(batches: list[bytes], wanted: Picker, most: int, most_bytes: int) -> bytes:
    """In a thread: the last that a filter picks, the oldest first; no more than an answer has."""
    found: deque[bytes] = deque()
    size = 0
    for line in _backwards(batches):
        if not _picked(line, wanted):
            continue
        size += len(line) + 1
        if size > min(most_bytes, MOST_TOLD_BYTES):
            break
        found.appendleft(line + b"\n")
        if len(found) >= most:
            break
    return b"".join(found)


def _backwards(batches: list[bytes]) -> Iterator[bytes]:
    for lines in reversed(batches):
        for line in reversed(lines.split(b"\n")):
            if line:
                yield line


class _Looked(msgspec.Struct):
    """What is looked at; a `log` document may leave any of it out."""

    direction: str = ""
    caller: str = ""
    service: str = ""
    method: str = ""
    target: str = ""
    status: int = 0
    duration_s: float = 0.0
    flag: str = ""


_decode: Any = msgspec.json.Decoder(_Looked).decode


def _picked(line: bytes, wanted: Picker) -> bool:
    try:
        told = _decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    method, target = told.method.encode(), told.target.encode("latin-1", "replace")
    inbound = told.direction == "inbound"
    return wanted.picks(inbound, told.caller, told.service, method, target, told.status, told.duration_s, told.flag)
