# mypyc: compiled
"""How many entries the rings and tables of a worker may have beyond what their endpoints need.

`ring_min` and `table` of one document for `*` are asked for by every service. What is asked for is granted whole while
the sum is small; beyond it no service gets more than a cap, a power of two that is the same for all.

Laws
- The cap follows from what stands in the mesh, not from which services a worker was asked for: the same key has to go
  to the same endpoint from every agent.
- What an endpoint needs is never cut: a ring is as large as without a `ring_min`, a table as with `table` 0.
"""

from __future__ import annotations

from typing import Final

LEAST: Final = 512
"""What is asked for below this is the default, and not counted."""
MOST: Final = 65_536
"""Of one service."""
TOTAL: Final = 1 << 20
"""Of a worker: about 50 MB."""


class Entries:
    """What the services of a worker ask for, and what they get."""

    __slots__ = ("_asked", "cap")

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}
        """How many services ask for so many."""
        self.cap = MOST

    def change(self, before: int, after: int) -> None:
        """A service that asked for `before` asks for `after`; 0: for none."""
        if before == after:
            return
        for asked, by in ((before, -1), (after, 1)):
            if asked > LEAST:
                count = self._asked.get(asked, 0) + by
                if count > 0:
                    self._asked[asked] = count
                else:
                    self._asked.pop(asked, None)

    def recount(self) -> bool:
        """Find the cap anew; whether it is another one."""
        before = self.cap
        self.cap = MOST
        while self.cap > LEAST and sum([min(a, self.cap) * n for a, n in self._asked.items()]) > TOTAL:
            self.cap //= 2
        return self.cap != before

    def granted(self, asked: int) -> int:
        """As much of it as there may be."""
        return min(asked, self.cap)


UNBOUNDED: Final = Entries()
"""For a balancer by itself."""
