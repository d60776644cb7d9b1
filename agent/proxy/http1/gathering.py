# mypyc: compiled
"""Heads out of bytes, however they come: what both sides gather until a head is whole. Pure.

Laws
- Each byte is copied and looked at a fixed number of times, whatever the pieces are that it comes in, and however much
  of other heads came along: the work is that of the bytes, never of bytes times pieces.
- How the bytes were cut changes nothing: neither what is accepted, nor what it means.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.http1.head import check_incomplete
from agent.proxy.messages.head import HeadRules

MAX_BEGIN: Final = 4096
_END: Final = b"\r\n\r\n"


class Gathered:
    """The bytes of one connection that are part of no message's body."""

    __slots__ = ("_at", "_buffer", "_looked", "_rules", "_skipped")

    def __init__(self, rules: HeadRules) -> None:
        self._rules = rules
        self._buffer: bytes | bytearray = b""
        """What came in one piece is left as it is; only what has to grow is a bytearray."""
        self._at = 0
        """Where the next head begins."""
        self._looked = 0
        """Up to here is no end of it."""
        self._skipped = False
        """Whether there was an empty line before it."""

    def __len__(self) -> int:
        return len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """More bytes."""
        at = self._at
        buffer = self._buffer
        if at == len(buffer):
            self._buffer = data
            self._at = self._looked = 0
            return
        if not isinstance(buffer, bytearray):
            buffer = self._buffer = bytearray(buffer)
        buffer.extend(data)
        if at:
            del buffer[:at]
            self._looked -= at
            self._at = 0

    def skip_empty_line(self) -> None:
        """One, before a request: RFC 9112 section 2.2. A second is a broken head."""
        at = self._at
        if not self._skipped and self._buffer[at : at + 2] == b"\r\n":
            self._skipped = True
            self._at = self._looked = at + 2

    def head(self) -> bytes | None:
        """The next head, without the empty line at its end; None when it is not whole yet. Raises BadHead for what no
        further byte can mend."""
        buffer = self._buffer
        at = self._at
        looked = self._looked
        end = buffer.find(_END, looked)
        if end < 0:
            check_incomplete(buffer, self._rules, at, looked)
            self._looked = max(at, len(buffer) - 3)
            return None
        head = buffer[at:end]
        end += 4
        if end == len(buffer):
            self.clear()
        else:
            self._at = self._looked = end
            self._skipped = False
        return bytes(head) if isinstance(head, bytearray) else head

    def begin(self) -> bytes:
        """What the next head begins with, for people."""
        found = self._buffer[self._at : self._at + MAX_BEGIN]
        return bytes(found) if isinstance(found, bytearray) else found

    def take(self) -> bytes:
        """What came behind the last head."""
        if self._at == len(self._buffer):
            return b""
        rest = self._buffer[self._at :]
        self.clear()
        return bytes(rest)

    def clear(self) -> None:
        """Throw it away."""
        self._buffer = b""
        self._at = self._looked = 0
        self._skipped = False
