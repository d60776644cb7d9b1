# mypyc: compiled
"""Bodies on the wire: chunked coding taken apart and put together (RFC 9112 section 7). Pure.

A body is passed on piece by piece as it comes and never collected. What arrives chunked is decoded and framed anew, so
that chunk extensions, odd sizes and whatever a lenient parser might see in them end here.
"""

from __future__ import annotations

import re
from typing import Final

from agent.proxy.http1.head import parse_field
from agent.proxy.messages.head import CONTENT_LENGTH, HOST, PLAIN, REBUILT, BadHead, Field, is_word

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*\Z"
)
_NO_TRAILERS: Final = frozenset(
    (
        *(b"cache-control", b"max-forwards", b"pragma", b"range", b"expect"),
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range"),
        *(b"authorization", b"www-authenticate", b"authentication-info", b"proxy-authentication-info"),
        *(b"cookie", b"set-cookie", b"age", b"expires", b"date", b"location", b"retry-after", b"vary", b"warning"),
        *(b"content-encoding", b"content-type", b"content-range", b"trailer", b"allow"),
        *(b"origin", b"forwarded", b"x-real-ip", b"x-http-method-override"),
        *(b"x-method-override", b"x-http-method"),
    )
)
"""What decides how a message is routed, who sent it, whether it is carried out, or how its body is read: whoever merges
trailers into the head would let a sender say it after it was judged."""
_MAX_SIZE_LINE: Final = 4096
_MAX_TRAILER_BYTES: Final = 16 * 1024
_MAX_TRAILERS: Final = 50

LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk; `data` is not empty (an empty one would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[bytes]) -> bytes:
    """The end of a chunked body, with its trailer fields in wire form."""
    return b"0\r\n%b\r\n" % b"".join(trailers) if trailers else LAST_CHUNK


class ChunkedDecoder:
    """Bytes in, payload out. After `done`, `rest` holds what came behind the body and `trailers` its trailer fields."""

    __slots__ = ("_left", "_line", "_trailing", "_trailing_bytes", "done", "rest", "trailers")

    def __init__(self) -> None:
        self._line: bytearray | None = None
        """One whose end has not come. It is looked at once, however it drips."""
        self._left = -1
        """Bytes of the current chunk still to come; 0: its CRLF is; -1: a size line is."""
        self._trailing = False
        self._trailing_bytes = 0
        """Of all trailer fields, those that are dropped too."""
        self.done = False
        self.rest = b""
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises BadHead for a framing that has more than one reading."""
        line_so_far = self._line
        if line_so_far is not None:
            looked = len(line_so_far) - 1  # a CR that its LF may follow
            line_so_far.extend(data)
            if line_so_far.find(b"\r\n", looked) < 0:
                self._judge_line(line_so_far, looked)
                return b""
            data = bytes(line_so_far)
            self._line = None
        pieces: list[bytes] = []
        position = 0
        while True:
            if self._left > 0:
                piece = data[position : position + self._left]
                if not piece:
                    break
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                continue
            end = data.find(b"\r\n", position)
            if end < 0:
                if position < len(data):
                    self._line = bytearray(data[position:])
                    self._judge_line(self._line, 0)
                break
            line = data[position:end]
            position = end + 2
            if self._trailing:
                if not line:
                    self.done = True
                    self.rest = data[position:]
                    break
                self._trailer(line)
            elif self._left == 0:
                if line:
                    raise BadHead("a chunk that is longer than its size says")
                self._left = -1
            else:
                self._size(line)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _judge_line(self, line: bytearray, judged: int) -> None:
        """One whose end has not come, and of which nothing is wrong up to `judged`."""
        if len(line) > (_MAX_TRAILER_BYTES if self._trailing else _MAX_SIZE_LINE):
            raise BadHead("a line of chunked coding that is too long", 431 if self._trailing else 400)
        if line.find(b"\n", judged) >= 0 or (self._left == 0 and not self._trailing and line != b"\r"):
            raise BadHead("a line of chunked coding that does not end with CR LF")

    def _size(self, line: bytes) -> None:
        size = _SIZE.match(line) if len(line) <= _MAX_SIZE_LINE else None
        if size is None:
            raise BadHead("a chunk size that is no hexadecimal number")
        self._left = int(size[1], 16)
        if self._left == 0:
            self._trailing = True

    def _trailer(self, line: bytes) -> None:
        field = parse_field(line)
        # What may stand in a head only is dropped: RFC 9110 section 6.5.1, RFC 7230 section 4.1.2.
        if PLAIN <= field.code < REBUILT and not _is_of_a_head(field):
            self.trailers.append(field.wire)
        self._trailing_bytes += len(line)
        if len(self.trailers) > _MAX_TRAILERS or self._trailing_bytes > _MAX_TRAILER_BYTES:
            raise BadHead("too many trailer fields", 431)


def _is_of_a_head(field: Field) -> bool:
    return field.code in (HOST, CONTENT_LENGTH) or is_word(field.code) or field.name.replace(b"_", b"-") in _NO_TRAILERS
