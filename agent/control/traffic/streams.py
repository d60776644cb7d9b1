"""What workers pick for whoever asks, and asks again: a ring of lines for each of those things that is wanted.

    workers ─▶ Followed ─▶ a stream's ring ─▶ answers to readers, who ask again and again

Laws
- What is wanted is told to the workers while somebody asks for it, and FORGET_S longer: nothing is picked for who is
  gone.
- Readers have their place themselves: here is nothing that a slow one could fill, nor a dead one keep. Those who ask
  for the same share a stream.
- Lines are numbered, those that were lost too: who reads on finds out how many he has missed, wherever that was: in
  a worker, in the ring, or since he was slow.
- So many streams of RING_BYTES each; beyond it what is new is refused.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from agent.control.asking.answering import Refusal
from agent.frames import Followed
from agent.requests.filter import Place, RequestsTold

RING_BYTES: Final = 4 * 1024 * 1024
MOST_TOLD_BYTES: Final = 512 * 1024
"""Of lines in one answer, however many are asked for."""
MOST_BATCH_BYTES: Final = 1024 * 1024
FORGET_S: Final = 10.0
W = TypeVar("W")


class _Batch(NamedTuple):
    first: int
    number: int
    lines: bytes


class _Stream:
    """Of one thing that is wanted."""

    def __init__(self, name: str, asked_at: float) -> None:
        self.name = name
        self.asked_at = asked_at
        self.next = 0
        """The number of the next line."""
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


class Streams(Generic[W]):
    """Of one agent, by what is wanted, which is hashable."""

    def __init__(self, host: str, most: int, what: str) -> None:
        """`most`: how many there may be; `what`: what they are, for people."""
        self._host = host
        self._most = most
        self._what = what
        self._streams: dict[W, _Stream] = {}
        self._by_id: dict[str, _Stream] = {}
        self._publish: Callable[[dict[str, W]], None] = lambda wanted: None
        self._boot = os.urandom(6).hex()
        self._made = 0
        self.lost = 0
        """Lines that somebody wanted, and that there was no room for."""

    def connect(self, publish: Callable[[dict[str, W]], None]) -> None:
        """Where workers are told what is wanted, by number: all of it."""
        self._publish = publish

    def __len__(self) -> int:
        return len(self._streams)

    def wanted(self) -> dict[str, W]:
        """By number."""
        return {stream.name: wanted for wanted, stream in self._streams.items()}

    def hear(self, told: Followed) -> None:
        """Of a worker; of a stream that is forgotten, or another room's, nothing is kept."""
        stream = self._by_id.get(told.id)
        if stream is not None:
            self.lost += told.lost
            stream.add(told)

    def forget(self, now: float) -> None:
        """Streams that nobody has asked for since FORGET_S."""
        gone = [wanted for wanted, stream in self._streams.items() if now - stream.asked_at > FORGET_S]
        for wanted in gone:
            del self._by_id[self._streams.pop(wanted).name]
        if gone:
            self._publish(self.wanted())

    def read(self, wanted: W, places: Mapping[str, Place], most_bytes: int, now: float) -> RequestsTold:
        """What has come since; `places`: of readers, by host. Raises Refusal."""
        stream = self._streams.get(wanted)
        if stream is None:
            stream = self._begin(wanted, now)
        stream.asked_at = now
        place = places.get(self._host)
        if place is None or place.stream != stream.name or not 0 <= place.after <= stream.next:
            return RequestsTold(place=Place(stream.name, stream.next), begun=place is not None)
        return stream.read(place.after, most_bytes)

    def _begin(self, wanted: W, now: float) -> _Stream:
        if len(self._streams) >= self._most:
            raise Refusal(503, f"{self._most} {self._what} here already, which is all that may be; ask again")
        self._made += 1
        stream = _Stream(f"{self._boot}-{self._made}", now)
        self._streams[wanted] = self._by_id[stream.name] = stream
        self._publish(self.wanted())
        return stream
