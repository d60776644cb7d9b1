"""Records that wait for one sink: whole lines of JSON, bounded in bytes, and what became of them, by kind. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["access", "audit", "events", "traces"]
KINDS: Final[tuple[Kind, ...]] = ("access", "audit", "events", "traces")


class Batch(NamedTuple):
    """Lines that were offered together."""

    kind: Kind
    lines: bytes
    """Each with its end."""
    records: int


class Waiting:
    """A queue that refuses what it has no room for: the newest is lost, and what waits is whole."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._batches: deque[Batch] = deque()
        self.bytes = 0
        self.delivered: Counter[Kind] = Counter()
        self.lost: Counter[Kind] = Counter()

    def __bool__(self) -> bool:
        return bool(self._batches)

    def put(self, batch: Batch) -> bool:
        """Whether there was room; what is lost is counted."""
        if self.bytes >= self._most_bytes:
            self.lost[batch.kind] += batch.records
            return False
        self._batches.append(batch)
        self.bytes += len(batch.lines)
        return True

    def take(self, most_bytes: int) -> list[Batch]:
        """The oldest, as many as are no larger together; but one, however large. Empty: none waits."""
        taken: list[Batch] = []
        size = 0
        while self._batches and (not taken or size + len(self._batches[0].lines) <= most_bytes):
            batch = self._batches.popleft()
            size += len(batch.lines)
            taken.append(batch)
        self.bytes -= size
        return taken

    def lose_all(self) -> int:
        """Nothing waits any more; how many lines did."""
        count = 0
        for batch in self._batches:
            self.lost[batch.kind] += batch.records
            count += batch.records
        self._batches.clear()
        self.bytes = 0
        return count
