# mypyc: compiled
"""Spans: in a ring while requests are served, and as lines of JSON for control in between.

Names and values of attributes are those of OpenTelemetry's conventions for HTTP (stable), so that whoever shows traces
knows them; what no convention has begins with `shoal.`.
"""

from __future__ import annotations

import time
from binascii import hexlify
from random import Random
from struct import Struct
from typing import Any, Final

import msgspec

from agent.carried import Span
from agent.frames import Spans
from agent.proxy.messages.trace_context import digits
from agent.proxy.report.ring import Ring

RING: Final = 16384
SPAN_BYTES: Final = 8
_AT_ONCE: Final = 64
_BYTES: Final = 24 * _AT_ONCE
_IDS: Final = Struct("32s16s" * _AT_ONCE)
_LINES: Final = b"traceparent: 00-%b-%b-02\r\n\0" * _AT_ONCE
_NO_SPAN: Final = b"0" * 16


class SpanRing:
    """Of one worker. When it overflows the newest spans are lost, and counted."""

    __slots__ = ("_begun", "_encode", "_rows", "epoch", "lost", "made", "random", "wanted")

    def __init__(self, random: Random) -> None:
        """`random`: draws the ids of traces and spans."""
        self.random = random
        self._begun: list[bytes] = []
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

    def begin(self) -> bytes:
        """A trace that begins, as the next hop is told it, where it is not sampled (`trace_context.begun`)."""
        if not self._begun:
            self._begun = prepared(self.random)
        return self._begun.pop()

    def next_begun(self) -> bytes:
        """What `begin` will say next."""
        if not self._begun:
            self._begun = prepared(self.random)
        return self._begun[-1]

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


def prepared(random: Random) -> list[bytes]:
    """Of _AT_ONCE traces, the ids of each and of a span in it. Every request waits for such a line, and most are told
    nothing else of their trace; many together take a third of the time that each takes alone."""
    digits = hexlify(random.randbytes(_BYTES))
    while _NO_SPAN in digits:  # which is no id
        digits = hexlify(random.randbytes(_BYTES))
    found = (_LINES % _IDS.unpack(digits)).split(b"\0")
    found.pop()
    return found


def size_of(span: Span) -> int:
    """What it holds that has no bound but that of a head (characters): texts of its attributes, and its state."""
    size = len(span.state)
    for value in span.attributes.values():
        if isinstance(value, str):
            size += len(value)
    return size
