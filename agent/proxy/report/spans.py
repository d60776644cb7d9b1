# mypyc: compiled
"""Spans: in a ring while requests are served, and as lines of JSON for control in between.

Names and values of attributes are those of OpenTelemetry's conventions for HTTP (stable), so that whoever shows traces
knows them; what no convention has begins with `shoal.`.
"""

from __future__ import annotations

import time
from random import Random
from typing import Any, Final

import msgspec

from agent.carried import Span
from agent.frames import Spans
from agent.proxy.messages.trace_context import digits
from agent.proxy.report.ring import Ring

RING: Final = 16384
SPAN_BYTES: Final = 8


class SpanRing:
    """Of one worker. When it overflows the newest spans are lost, and counted."""

    __slots__ = ("_encode", "_rows", "epoch", "lost", "made", "random", "wanted")

    def __init__(self, random: Random) -> None:
        """`random`: draws the ids of spans."""
        self.random = random
        self.wanted = False
        """Whether control sends them somewhere; else none is made."""
        self.made = 0
        self.lost = 0
        self._rows = Ring(RING, size_of)
        self._encode: Any = msgspec.json.Encoder().encode_lines
        self.epoch = time.time() - time.monotonic()
        """What makes Unix time of the monotonic clock's."""

    def __len__(self) -> int:
        return len(self._rows)

    def new_span(self) -> bytes:
        """An id: 16 digits, which are not all 0."""
        return digits(self.random.getrandbits(64) or 1, SPAN_BYTES)

    def add(self, span: Span) -> None:
        """One that is over."""
        self.made += 1
        if not self._rows.add(span):
            self.lost += 1

    def measure(self) -> None:
        """What waits."""
        self._rows.measure()

    def take(self, most: int) -> Spans | None:
        """The oldest, as a frame for control; None when there is none."""
        self.epoch = time.time() - time.monotonic()  # the wall clock may have been set since
        spans = self._rows.take(most)
        return Spans(len(spans), self._encode(spans)) if spans else None


def size_of(span: Span) -> int:
    """What it holds that has no bound but that of a head (characters): texts of its attributes, and its state."""
    size = len(span.state)
    for value in span.attributes.values():
        if isinstance(value, str):
            size += len(value)
    return size
