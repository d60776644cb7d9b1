# mypyc: interpreted, because frames come and go between requests, which do not wait for them
"""How frames stand in a stream of bytes: a 4-byte big-endian length, and so many bytes of msgpack. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from agent.frames import ToControl, ToWorker
from policies.claim import as_text

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 64 * 1024 * 1024
T = TypeVar("T")
_encode = msgspec.msgpack.Encoder(enc_hook=as_text).encode
"""Claims go over, which are texts of their own kind where they are none to their token."""


def encode(frame: ToWorker | ToControl) -> bytes:
    """Length and body. Raises ValueError for a frame beyond the limit."""
    body = _encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


class Decoder(Generic[T]):
    """Bytes in, frames out; no I/O."""

    def __init__(self, read: Callable[[bytes], T], rest: bytes = b"") -> None:
        """`read`: `to_worker` or `to_control`. `rest`: of another one, which goes no further."""
        self._read = read
        self._buffer = bytearray(rest)

    @property
    def rest(self) -> bytes:
        """The beginning of a frame."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Iterator[T]:
        """Every frame that `data` completes. Raises ValueError for what is none: beyond the limit, or no map."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            (size,) = HEADER.unpack_from(buffer, start)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes; the limit is {MAX_FRAME_BYTES}")
            end = start + HEADER.size + size
            if len(buffer) < end:
                break
            yield self._read(memoryview(buffer)[start + HEADER.size : end].tobytes())
            start = end
        if start:
            del buffer[:start]
