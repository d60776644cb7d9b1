# mypyc: compiled
"""What a limit that finds itself has found, in words that all workers of an agent share: they stand before the same
instances, and there is one limit for them. Pure: somebody else has mapped the memory.

Laws
- Every worker reads and writes; a word is at once. Two that add to a sum in the same moment lose one of their parts,
  which is one answer in thousands, and of no consequence to an average. What must be exact, how many are under way,
  does not stand here (`policies.together.Gauge`).
- A place that is needed by another service goes to it where it was not used for the longest time; whoever finds its own
  gone begins anew.
- A worker without shared memory has words of its own, and is otherwise the same.
"""

from __future__ import annotations

from typing import Final

from policies.hashing import hash64
from policies.together import ADAPTIVE, ADAPTIVE_CELLS, ADAPTIVE_FIRST, Together

LIMIT: Final = 1
"""0: nothing was found yet."""
BASE_S: Final = 2
"""What a request takes without a queue, as far as that is known; 0: it is not."""
USUAL: Final = 3
"""The part of requests that is given up without a queue, too."""
BEGAN: Final = 4
"""When the window began, in monotonic seconds."""
LATENCY_S: Final = 5
"""Of the last window, on average."""
GOOD: Final = 6
"""Answered well in the window, and ..."""
LOST: Final = 7
"""... given up, or come to nothing, in the window."""
TIME_S: Final = 8
"""That both took."""
PEAK: Final = 9
"""The most under way at a time in the window."""
MARK_LIMIT: Final = 10
"""The limit when it began to shrink, or, below zero, before it rose for a try; and ..."""
MARK_RATE: Final = 11
"""... how many were answered well, a second, and ..."""
MARK_LOST: Final = 12
"""... the part that was given up."""
NEWEST: Final = 13
"""When the newest request was let in that has been answered."""
CALM: Final = 14
"""For how many windows the limit has not moved."""
ADRIFT: Final = 15
"""The most at a time, since the limit was last moved, that were given up and may have kept the service busy."""
_PROBES: Final = 4


class Common:
    """One service's words, each a double."""

    __slots__ = ("_key", "_keys", "_places", "_together", "at", "words")

    def __init__(self, together: Together | None = None, service: str = "") -> None:
        self._together = together
        self._key = 0
        self._places = [0]
        self.at = 0
        """The place of the first."""
        if together is None:
            alone = memoryview(bytearray(8 * ADAPTIVE))
            self._keys = alone.cast("q")
            self.words = alone.cast("d")
            return
        self._keys = together.words
        self.words = together.words.cast("B").cast("d")
        self._key = hash64(service) & (1 << 48) - 1 | 1
        first = (self._key >> 20) % ADAPTIVE_CELLS
        self._places = [ADAPTIVE_FIRST + (first + n) % ADAPTIVE_CELLS * ADAPTIVE for n in range(_PROBES)]
        self.at = self._places[0]

    def find(self) -> bool:
        """Make sure of the place, before anything is read or written; False: it is another, and nothing in it."""
        found: int = self._keys[self.at]
        return found == self._key or self._look()

    def _look(self) -> bool:
        for at in self._places:
            found: int = self._keys[at]
            if found == self._key:
                self.at = at
                return True
        oldest = -1.0
        for at in self._places:
            free: int = self._keys[at]
            used: float = self.words[at + BEGAN]
            if not free:
                self.at = at
                break
            if oldest < 0.0 or used < oldest:
                self.at, oldest = at, used
        for n in range(1, ADAPTIVE):
            self.words[self.at + n] = 0.0
        self._keys[self.at] = self._key
        return False

    def read(self, word: int) -> float:
        """One of the words above."""
        found: float = self.words[self.at + word]
        return found

    def write(self, word: int, value: float) -> None:
        """One of them."""
        self.words[self.at + word] = value
