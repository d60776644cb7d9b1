# mypyc: compiled
"""A token bucket, of one worker or of all workers of an agent."""

from __future__ import annotations

from typing import Final

from policies.kinds.ratelimit.cells import Cells, age_s, tokens_in, word_of

REST_S: Final = 1.0
"""After so long without a request a bucket has rested."""


class Bucket:
    """Tokens, one for each request that may pass now. Of one that workers have together: what was seen of it last."""

    __slots__ = ("_at", "_cells", "_key", "_keyed", "_updated", "asked", "capacity", "id", "rate", "tokens")

    def __init__(self, rate: float, capacity: float, now: float, id: str = "") -> None:
        """`id`: of the key whose it is, for those who are told of it."""
        self.id = id
        self.asked = 0
        """Requests of its key since somebody wanted to know."""
        self.tokens = capacity
        self.rate = rate
        self.capacity = capacity
        self._updated = now
        self._cells: Cells | None = None
        self._key = 0
        self._keyed = False
        self._at = -1

    def share(self, cells: Cells | None, key: int, keyed: bool, now: float) -> None:
        """Have it together with other workers: as it stands there, or else as it is here. None: alone."""
        self._cells = cells
        self._key = key
        self._keyed = keyed
        self._at = -1
        if cells is not None:
            self.fill(self.rate, self.capacity, now)

    @property
    def shared(self) -> bool:
        """Whether other workers take from it."""
        return self._cells is not None

    def _load(self, now: float) -> None:
        cells = self._cells
        if cells is None:
            return
        if self._at >= 0:
            key: int = cells.words[self._at]
            if key != self._key:
                self._at = -1
        if self._at < 0:
            self._at = cells.find(self._key, self._keyed)
            if self._at < 0:
                self._at = cells.claim(self._key, self._keyed, word_of(self.tokens, self._updated), now)
                return
        word: int = cells.words[self._at + 1]
        self.tokens = tokens_in(word)
        self._updated = now - age_s(word, now)

    def _store(self, now: float) -> None:
        if self._cells is not None and self._at >= 0:
            self._cells.words[self._at + 1] = word_of(self.tokens, now)

    def take(self, now: float) -> None:
        """One of them, as they are by now: others may have taken some since they were looked at."""
        if self._cells is not None:
            self.fill(self.rate, self.capacity, now)
        self.tokens -= 1.0
        self._store(now)

    def add(self, tokens: float, now: float) -> None:
        """So many more, as far as there is room for them; of one that is filled by now."""
        self.tokens = min(self.tokens + tokens, self.capacity)
        self._store(now)

    def fill(self, rate: float, capacity: float, now: float, rest: float = 0.0) -> None:
        """Bring it up to `now`. `rest`: how fast it has filled if it has rested."""
        if self._cells is not None:
            self._load(now)
        edited = rate != self.rate or capacity != self.capacity
        self.capacity = capacity
        passed = now - self._updated
        if passed > 0:
            pace = rate if rate < self.rate else self.rate
            if rest > pace and passed > REST_S:
                pace, edited = rest, True  # whoever looks next sees no rest any more
            self.tokens += passed * pace
            self._updated = now
        self.rate = rate
        if self.tokens > capacity:
            self.tokens = capacity
        if edited:
            self._store(now)

    def filled(self, rate: float, capacity: float, now: float, rest: float) -> Bucket:
        """What it would be after `fill`."""
        if self._cells is not None:
            self._load(now)
        other = Bucket(self.rate, self.tokens, self._updated)
        other.fill(rate, capacity, now, rest)
        return other
