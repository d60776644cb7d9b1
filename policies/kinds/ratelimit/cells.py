# mypyc: compiled
"""Where the buckets of an agent's limits stand, so that all of its workers take from the same ones: two words each,
whose it is, and how many tokens there were when.

Laws
- Every worker reads and writes; a word is at once. Who takes reads the word, takes one and writes it, within some
  hundreds of nanoseconds: two that do so in the same moment take one for both. That is all that can be lost, once for
  each such meeting; whoever comes a moment later takes from what is left, below nothing too, and it is waited for.
- A place that is needed by another goes to it where it was not used for the longest time. A worker that finds its own
  gone puts down anew what it saw last: for as long as that goes on each worker counts by itself.
- Limits with keys have places of their own: however many keys a client makes up, a limit without keys loses none.
"""

from __future__ import annotations

from typing import Final

from policies.hashing import hash64
from policies.together import KEYED_CELLS, LIMIT_CELLS, Together, cells_at

MOST_TOKENS: Final = 1_000_000.0
"""A bucket that holds more stands in no cell."""
DEBT: Final = 256.0
"""Tokens that may be owed."""
_PARTS: Final = 256.0
"""Of a token."""
_MS: Final = 0xFFFFFFFF
_KEY: Final = (1 << 48) - 1
_PROBES: Final = 4
RECENT_MS: Final = 60_000
"""Whose place was used since, and goes to another, has lost something."""


def key_of(service: str, limit: str, value: str) -> int:
    """Whose a cell is; never 0."""
    return hash64(f"{service}\0{limit}\0{value}") & _KEY | 1


def word_of(tokens: float, now: float) -> int:
    """So many at a time."""
    owed = tokens + DEBT
    return int(max(owed, 0.0) * _PARTS + 0.5) << 32 | int(now * 1000.0) & _MS


def tokens_in(word: int) -> float:
    """How many there were ..."""
    return (word >> 32) / _PARTS - DEBT


def age_s(word: int, now: float) -> float:
    """... so long ago; 0 where another worker's clock was looked at later."""
    age_ms = (int(now * 1000.0) - word) & _MS
    return age_ms / 1000.0 if age_ms <= _MS >> 1 else 0.0


class Cells:
    """Of one agent, as one of its workers sees them."""

    __slots__ = ("_together", "words")

    def __init__(self, together: Together) -> None:
        """Buckets that have to give way to others while they count are lost there."""
        self._together = together
        self.words = together.words

    def find(self, key: int, keyed: bool) -> int:
        """The place of a bucket; -1: it has none."""
        for at in _places(key, keyed):
            found: int = self.words[at]
            if found == key:
                return at
        return -1

    def claim(self, key: int, keyed: bool, word: int, now: float) -> int:
        """A place for a bucket that has none, with so much in it."""
        oldest, chosen = -1.0, -1
        for at in _places(key, keyed):
            if not self.words[at]:
                chosen, oldest = at, -1.0
                break
            age = age_s(self.words[at + 1], now)
            if age > oldest:
                chosen, oldest = at, age
        if 0.0 <= oldest * 1000.0 < RECENT_MS:
            self._together.lost += 1
        self.words[chosen + 1] = word
        self.words[chosen] = key
        return chosen


def _places(key: int, keyed: bool) -> list[int]:
    first, count = cells_at(keyed), KEYED_CELLS if keyed else LIMIT_CELLS
    start = (key >> 16) % count
    return [first + (start + n) % count * 2 for n in range(_PROBES)]
