# mypyc: compiled
"""Audit records: in a ring while requests are served, and as lines of JSON for control in between. Control chains them.

Laws
- What is denied is recorded, whether a document asks for it or not. Of these AUTOMATIC_PER_S are, in each worker:
  whoever knocks ten thousand times a second does not fill a disk. The others are counted, and the log tells how many.
- By whom somebody is known (his address, his claims, what his headers say) stands apart from the rest.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from agent.audit.draft import Said
from agent.frames import Audited
from agent.proxy.report.ring import Ring
from policies.claim import as_text

RING: Final = 32768
AUTOMATIC_PER_S: Final = 200
FLOOD: Final = "more was denied in a second than is recorded without an audit document"
FULL: Final = "a worker had more to record than it could hand over"


class AuditRing:
    """Of one worker. When it overflows the newest records are lost, and counted."""

    __slots__ = ("_automatic", "_encode", "_lost", "_rows", "_second", "epoch")

    def __init__(self) -> None:
        self._rows = Ring(RING, size_of)
        self._lost: dict[str, int] = {}
        self._second = 0
        self._automatic = 0
        self._encode = msgspec.json.Encoder(enc_hook=as_text).encode_lines
        self.epoch = time.time() - time.monotonic()
        """What makes Unix time of the monotonic clock's."""

    def __len__(self) -> int:
        return len(self._rows) + len(self._lost)

    def add(self, said: Said) -> None:
        """Something that a document wants to have recorded."""
        if not self._rows.add(said):
            self._lose(FULL)

    def measure(self) -> None:
        """What waits."""
        self._rows.measure()

    def add_automatic(self, said: Said, now: float) -> None:
        """Something that is recorded anyway; `now`: monotonic seconds."""
        second = int(now)
        if second != self._second:
            self._second, self._automatic = second, 0
        self._automatic += 1
        if self._automatic > AUTOMATIC_PER_S:
            self._lose(FLOOD)
        else:
            self.add(said)

    def _lose(self, why: str) -> None:
        self._lost[why] = self._lost.get(why, 0) + 1

    def take(self, most: int) -> Audited | None:
        """The oldest records, as a frame for control; None when there is nothing to tell."""
        self.epoch = time.time() - time.monotonic()  # the wall clock may have been set since
        rows = self._rows.take(most)
        lost, self._lost = self._lost, {}
        if not rows and not lost:
            return None
        return Audited(len(rows), encoded(rows, self._encode), lost)


def size_of(said: Said) -> int:
    """What it holds that has no bound but that of a head (characters): its texts."""
    size = 0
    for value in said.data.values():
        if isinstance(value, str):
            size += len(value)
    for text in said.personal.values():
        size += len(text)
    return size


def encoded(rows: list[Said], encode: Any) -> bytes:
    """As lines."""
    found: bytes = encode(rows)
    return found
