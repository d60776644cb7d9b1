# mypyc: compiled
"""Hashes that every agent computes alike: of requests, and of endpoints on rings and tables."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

_EIGHT: Final = struct.Struct(">8Q")


def hash64(text: str) -> int:
    """64 bits, the same in every process (Python's own `hash` is not)."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def hashes64(text: str, count: int) -> list[int]:
    """`count` independent 64-bit hashes of a text."""
    found: list[int] = []
    encoded = text.encode("utf-8", "surrogateescape")
    for block in range((count + 7) // 8):
        digest = hashlib.blake2b(encoded, digest_size=64, salt=block.to_bytes(8, "big")).digest()
        found.extend(_EIGHT.unpack(digest))
    return found[:count]


_SPAN: Final = float(1 << 53)


def draw(key: str, target: str) -> float:
    """A number in (0, 1), always the same for a key and a target. The target has the kind and the service that is drawn
    for in its name: who is among the first of one document's users would else be among those of all."""
    digest = hashlib.blake2b(f"{key}\0{target}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) / _SPAN
