"""What is said between an evaluator of Rego, a process of its own, and whoever started it: msgpack maps, each with its
length in four bytes before it. Questions are answered in their order."""

from __future__ import annotations

import struct
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

MAX_BYTES: Final = 16 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")
LIBRARY: Final = "regopy"
PROVE_S: Final = 3.0
"""Of processor time, for compiling a program before its document counts."""
COMPILE_S: Final = 10.0
"""The same for one that was compiled before, on a host that may be slower."""
ANSWER_S: Final = 0.2
"""For one answer; usual are some 200 microseconds."""
MEMORY: Final = 256 * 1024 * 1024
"""Beyond what the library has at its start."""
MISSING: Final = "Rego needs a package that is not here: pip install 'shoal-mesh[rego]'"


class Load(msgspec.Struct, frozen=True, tag_field="t", tag="load"):
    """Compile a program; wants a Loaded."""

    program: int
    modules: dict[str, str]
    data: Any
    query: str
    allowed_s: float = COMPILE_S


class Unload(msgspec.Struct, frozen=True, tag_field="t", tag="unload"):
    """Nobody asks it any more; wants nothing."""

    program: int


class Ask(msgspec.Struct, frozen=True, tag_field="t", tag="ask"):
    """Evaluate it; wants an Answered."""

    number: int
    program: int
    input: Any


class Loaded(msgspec.Struct, frozen=True, tag_field="t", tag="loaded"):
    """What came of it."""

    program: int
    reads: tuple[str, ...] = ()
    timed: bool = False
    path: str = ""
    """Where it is wrong, and why."""
    reason: str = ""
    passing: bool = False
    """It is not the program's fault, and may go well another time."""


class Answered(msgspec.Struct, frozen=True, tag_field="t", tag="answered"):
    """What its query is."""

    number: int
    allows: bool
    reason: str
    failed: bool = False
    """It is neither true nor false."""


Told: TypeAlias = Load | Unload | Ask
Said: TypeAlias = Loaded | Answered
T = TypeVar("T")


def encode(word: Told | Said) -> bytes:
    """With its length. Raises ValueError for one that is too long."""
    body = msgspec.msgpack.encode(word)
    if len(body) > MAX_BYTES:
        raise ValueError(f"{len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


class Reader:
    """Bytes to words."""

    def __init__(self, kinds: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kinds)
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Those that are whole by now. Raises ValueError for what is none."""
        self._held += data
        found = []
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > MAX_BYTES:
                raise ValueError(f"a word of {length} bytes")
            end = _LENGTH.size + length
            if len(self._held) < end:
                break
            found.append(self._decoder.decode(bytes(self._held[_LENGTH.size : end])))
            del self._held[:end]
        return found
