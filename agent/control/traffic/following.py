"""Requests as they end, for whoever asks: a stream for each filter that somebody follows, and the last ones recorded.

    workers ─▶ Followed ─▶ a stream's ring ─▶ answers to `REQUESTS`, which readers ask again and again

Laws
- A filter is told to the workers while somebody asks for it, and FORGET_S longer: nothing is picked for who is gone.
- Readers have their place themselves: here is nothing that a slow one could fill, nor a dead one keep. Those who ask
  for the same share a stream.
- Requests are numbered, those that were lost too: who reads on finds out how many he has missed, wherever that was: in
  a worker, in the ring, or since he was slow.
- MOST_STREAMS streams of RING_BYTES each; beyond it a new filter is refused.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
import trio

from agent.control.asking.answering import Answering, Asker, Refusal
from agent.frames import Follow, Followed
from agent.requests.filter import REQUESTS, Filter, Place, RequestsAsked, RequestsTold
from agent.requests.picking import Picker

MOST_STREAMS: Final = 16
RING_BYTES: Final = 4 * 1024 * 1024
MOST_TOLD_BYTES: Final = 512 * 1024
"""Of lines in one answer, however many are asked for."""
MOST_BATCH_BYTES: Final = 1024 * 1024
FORGET_S: Final = 10.0
LOOK_S: Final = 1.0
RECENT_BYTES: Final = 8 * 1024 * 1024
MOST_LAST: Final = 1000


class _Batch(NamedTuple):
    first: int
    number: int
    lines: bytes


class _Stream:
    """One filter's."""

    def __init__(self, name: str, asked_at: float) -> None:
        self.name = name
        self.asked_at = asked_at
        self.next = 0
        """The number of the next request."""
        self._batches: deque[_Batch] = deque()
        self._bytes = 0

    def add(self, told: Followed) -> None:
        """What a worker says; the oldest make way."""
        if told.count and len(told.lines) <= MOST_BATCH_BYTES:
            self._batches.append(_Batch(self.next, told.count, told.lines))
            self._bytes += len(told.lines)
        self.next += told.count + told.lost
        while self._bytes > RING_BYTES:
            self._bytes -= len(self._batches.popleft().lines)

    def read(self, after: int, most_bytes: int) -> RequestsTold:
        """What is behind a place."""
        taken: list[bytes] = []
        size = lost = 0
        for batch in self._batches:
            if batch.first < after:
                continue
            if taken and size + len(batch.lines) > min(most_bytes, MOST_TOLD_BYTES):
                return RequestsTold(b"".join(taken), lost, Place(self.name, after))
            lost += batch.first - after
            after = batch.first + batch.number
            taken.append(batch.lines)
            size += len(batch.lines)
        lost += max(0, self.next - after)
        return RequestsTold(b"".join(taken), lost, Place(self.name, self.next))


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
        self._host = host
        self._recorded = recorded
        self._publish: Callable[[list[Follow]], None] = lambda frames: None
        self._streams: dict[Filter, _Stream] = {}
        self._by_id: dict[str, _Stream] = {}
        self._boot = os.urandom(6).hex()
        self._made = 0
        self._recent = _Recent()
        self.lost = 0
        """Requests that somebody followed, and that there was no room for."""
        answering.register(REQUESTS, self._answer)

    def connect(self, publish: Callable[[list[Follow]], None]) -> None:
        """Where workers are told who follows what."""
        self._publish = publish

    @property
    def filters(self) -> int:
        """How many are followed."""
        return len(self._streams)

    def frames(self) -> list[Follow]:
        """What a new worker has to know."""
        return [self._frame()] if self._streams else []

    def _frame(self) -> Follow:
        return Follow({stream.name: wanted for wanted, stream in self._streams.items()})

    def on_records(self, lines: bytes) -> None:
        """Records for sinks."""
        self._recent.add(lines)

    def on_followed(self, told: Followed) -> None:
        """Of a worker; of a stream that is forgotten, as it is on its way."""
        stream = self._by_id.get(told.id)
        if stream is not None:
            self.lost += told.lost
            stream.add(told)

    async def run(self) -> None:
        """Forget who does not ask any more."""
        while True:
            await trio.sleep(LOOK_S)
            self.forget(time.monotonic())

    def forget(self, now: float) -> None:
        """Streams that nobody has asked for since FORGET_S."""
        gone = [wanted for wanted, stream in self._streams.items() if now - stream.asked_at > FORGET_S]
        for wanted in gone:
            del self._by_id[self._streams.pop(wanted).name]
        if gone:
            self._publish([self._frame()])

    async def _answer(self, asked: RequestsAsked, _: Asker) -> RequestsTold:
        if asked.last:
            wanted = Picker(asked.filter)
            last = min(asked.last, MOST_LAST)
            lines = await trio.to_thread.run_sync(_last, self._recent.batches(), wanted, last, asked.most_bytes)
            return RequestsTold(lines, recorded=self._recorded)
        return self.read(asked, time.monotonic())

    def read(self, asked: RequestsAsked, now: float) -> RequestsTold:
        """What has ended since. Raises Refusal."""
        stream = self._streams.get(asked.filter)
        if stream is None:
            stream = self._begin(asked.filter, now)
        stream.asked_at = now
        place = asked.places.get(self._host)
        if place is None or place.stream != stream.name or not 0 <= place.after <= stream.next:
            begun = Place(stream.name, stream.next)
            return RequestsTold(place=begun, begun=place is not None, recorded=self._recorded)
        return msgspec.structs.replace(stream.read(place.after, asked.most_bytes), recorded=self._recorded)

    def _begin(self, wanted: Filter, now: float) -> _Stream:
        if len(self._streams) >= MOST_STREAMS:
            raise Refusal(503, f"{MOST_STREAMS} filters are followed here already, which is all that may be; ask again")
        self._made += 1
        stream = _Stream(f"{self._boot}-{self._made}", now)
        self._streams[wanted] = self._by_id[stream.name] = stream
        self._publish([self._frame()])
        return stream


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
