# mypyc: compiled
"""Calls of services for which every try was made, by the request that they were made for.

A service fails when what it calls does, and then those before it need not try again: all tries were made, nearer to the
failure. Its own 5xx does not say why it failed; what it handed on to its calls does.

Laws
- It takes proof. A service's answer is behind a call when that call was the same service's, by its credentials, carried
  the request's id or its trace, and came to nothing while that request was under way. A failure of anything else that
  the service does says nothing about it.
- The workers of an agent have one table, in memory that they share: a request may come in by one, and what is called
  for it go out by another.
- It is bounded: one word of 64 bits a place, of which half says whose it is and half when. Whatever comes later to a
  place takes it. What was lost that way is counted, and proves nothing any more; the retry budget does the rest.
- Words are read and written at once, so that no worker waits for another.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from policies.hashing import hash64

PLACES: Final = 1 << 16
KEEP_S: Final = 30.0
"""How long after its call failed a service may fail for that reason."""
_HALF: Final = 0xFFFFFFFF


class GivenUp:
    """Asked where a service failed, told where a call of one did; never about what went well."""

    __slots__ = ("_words", "lost", "noted")

    def __init__(self, fd: int = -1) -> None:
        """`fd`: memory that other workers have too; without it a worker knows its own only."""
        memory = mmap.mmap(fd, os.fstat(fd).st_size if fd >= 0 else 8 * PLACES)
        self._words = memoryview(memory).cast("Q")
        self.noted = 0
        self.lost = 0
        """Of those, by any worker, that had to give way to one of this worker's while they counted."""

    def note(self, service: str, id: bytes, now: float) -> None:
        """A call of a service, made for the request or the trace `id`, came to nothing, all tries made."""
        words = self._words
        key = _key(service, id)
        place = (key >> 32) % len(words)
        before = words[place]
        if before and before >> 32 != key & _HALF and _age_ms(before, now) < KEEP_S * 1000:
            self.lost += 1
        words[place] = (key & _HALF) << 32 | int(now * 1000) & _HALF
        self.noted += 1

    def holds(self, service: str, id: bytes, began: float, now: float) -> bool:
        """Whether that was so since `began`, and not long ago."""
        words = self._words
        key = _key(service, id)
        word = words[(key >> 32) % len(words)]
        if not word or word >> 32 != key & _HALF:
            return False
        # Times are whole milliseconds, of clocks that are looked at once a turn of each worker's loop.
        return _age_ms(word, now) <= 1000 * min(now - began, KEEP_S) + 1


def _key(service: str, id: bytes) -> int:
    return hash64(f"{service}\0{id.decode('latin-1')}")


def _age_ms(word: int, now: float) -> int:
    """Less than nothing where another worker's clock was looked at later."""
    age_ms = (int(now * 1000) - word) & _HALF
    return age_ms if age_ms <= _HALF >> 1 else age_ms - _HALF - 1
