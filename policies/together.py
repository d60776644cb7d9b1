# mypyc: compiled
"""What the workers of one agent count together, in memory that they share: whatever their number, a document's limit is
the agent's. Pure: words of 64 bits that somebody else has mapped.

Python has no atomic addition over processes, so nothing here needs one. Tokens of rate limits stand in the same memory,
under laws of their own (`policies.kinds.ratelimit.cells`), and so does what adaptive limits have found
(`policies.kinds.shed.common`).

Laws
- Every worker has a region of its own, and nobody else writes there while it lives: what it has under way, by service.
  The sum over regions is what all of them have.
- Who wants one more says so first, and then looks at the sum: of two that come at once both may be refused where one
  could have passed, and never do both pass. A word is written at once, and hundreds of instructions lie between writing
  the own and reading the others'.
- A worker that dies holds nothing: control clears its region before anybody gets it again. Regions of workers that
  still drain count as those of their successors do.
- A place in a region is had by a service for as long as it has anything under way. Where none is left a worker counts
  by itself, and says so (`lost`).
"""

from __future__ import annotations

from typing import Final

from policies.hashing import hash64

REQUESTS: Final = 1
PENDING: Final = 2
CONNECTIONS: Final = 3
RETRIES: Final = 4
LET_IN: Final = 5
WAITING: Final = 6
_FIGURES: Final = 6

MAGIC: Final = 0x53484F414C303032
"""The first word, so that another version's memory is not taken for this one's."""
CHANGES: Final = 1
"""The word that control counts up when a region is given out or taken back."""
OWNERS: Final = 8
"""From here on a word for each region: 0 where it is nobody's, else a process, or 1 for one that is about to start."""
REGIONS: Final = 64
PLACES: Final = 4096
"""In a region, each of 8 words: whose it is, and the figures."""
_PLACE: Final = 8
REGION: Final = PLACES * _PLACE
FIRST: Final = 128
"""Word of the first region."""
LIMIT_CELLS: Final = 1 << 15
KEYED_CELLS: Final = 1 << 16
"""Behind the regions: buckets of limits, and of limits' keys, of two words each (`policies.kinds.ratelimit.cells`)."""
ADAPTIVE: Final = 16
"""Words of a limit that finds itself (`policies.kinds.shed.common`), behind the buckets."""
ADAPTIVE_CELLS: Final = 1 << 12
ADAPTIVE_FIRST: Final = FIRST + REGIONS * REGION + 2 * (LIMIT_CELLS + KEYED_CELLS)
WORDS: Final = ADAPTIVE_FIRST + ADAPTIVE_CELLS * ADAPTIVE
_PROBES: Final = 4
_KEYS: Final = (1 << 48) - 1
"""Small enough for compiled code to compare in a register."""


def region_at(region: int) -> int:
    """Its first word."""
    return FIRST + region * REGION


def cells_at(keyed: bool) -> int:
    """The first word of the buckets of limits, or of those of limits' keys."""
    return FIRST + REGIONS * REGION + (2 * LIMIT_CELLS if keyed else 0)


class Together:
    """One worker's view of what all of them count."""

    __slots__ = ("_changes", "_holders", "_mine", "_others", "_own", "lost", "words")

    def __init__(self, words: memoryview, region: int) -> None:
        """`words`: WORDS of them, each 64 bits and signed. `region` is this worker's."""
        self.words = words
        self._own = region
        self._mine = region_at(region)
        self._changes = -1
        self._others: list[int] = []
        self._holders: dict[int, Gauge] = {}
        """Whose the places of this worker's region are."""
        self.lost = 0
        """Counts that had no place, and buckets that lost theirs while they counted."""

    def others(self) -> list[int]:
        """First words of the regions of all other workers."""
        changes: int = self.words[CHANGES]
        if changes != self._changes:
            self._changes = changes
            self._others = [
                region_at(n) for n in range(REGIONS) if n != self._own and self.words[OWNERS + n]
            ]  # fmt: skip
        return self._others

    def claim(self, gauge: Gauge) -> int:
        """A place in this worker's region; -1: there is none."""
        for offset in gauge.offsets:
            at = self._mine + offset
            holder = self._holders.get(at)
            if holder is not None:
                if holder.busy() and holder.key != gauge.key:
                    continue
                holder.at = -1  # idle; or of a service that went and came: what it still has finds another place
                for n in range(1, _FIGURES + 1):
                    self.words[at + n] = 0
            self._holders[at] = gauge
            self.words[at] = gauge.key
            return at
        self.lost += 1
        return -1


class Gauge:
    """What one service has under way."""

    __slots__ = ("_first", "_own", "_together", "_words", "at", "key", "offsets")

    def __init__(self, together: Together, service: str) -> None:
        self._together = together
        self.key = hash64(service) & _KEYS | 1
        first = (self.key >> 20) % PLACES
        self.offsets = [(first + n) % PLACES * _PLACE for n in range(_PROBES)]
        """Where it may be in a region."""
        self._first = self.offsets[0]
        self._words = together.words
        self.at = -1
        """Its place in this worker's; -1: it has none."""
        self._own = [0] * (_FIGURES + 1)

    def busy(self) -> bool:
        """Whether this worker has anything under way."""
        return any(self._own)

    def set(self, figure: int, value: int) -> None:
        """So many of them are this worker's."""
        self._own[figure] = value
        if self.at >= 0:
            self._words[self.at + figure] = value
        elif value:
            self.at = at = self._together.claim(self)
            if at >= 0:
                for n in range(1, _FIGURES + 1):
                    self._words[at + n] = self._own[n]

    def elsewhere(self, figure: int) -> int:
        """How many of them are other workers'."""
        words = self._words
        total = 0
        for region in self._together.others():
            at = region + self._first
            found: int = words[at]
            if found != self.key:
                at = self._further(region)
                if at < 0:
                    continue
            count: int = words[at + figure]
            total += count
        return total

    def _further(self, region: int) -> int:
        """Its place in another region that is not the first that it may be at; -1: it has none."""
        for offset in self.offsets[1:]:
            found: int = self._words[region + offset]
            if found == self.key:
                return region + offset
        return -1
