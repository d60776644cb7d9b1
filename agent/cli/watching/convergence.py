"""How revisions come into force: which live agents run one, and which do not yet. Pure.

Laws
- An agent runs everything up to the revision of its word (`acks/<host>`). Only agents that live count; those that come
  meanwhile, too.
- What is waited for is bounded: of too many revisions neighbours are waited for together, until all run the last one.
- A word costs a look at one revision, the oldest that is waited for; only when all run that are all agents looked at.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

MOST_WAITED_FOR: Final = 500
MOST_KEYS: Final = 20
"""Keys that a revision, or some together, are told by."""
FIRST_WORD_S: Final = 1.0
"""After which it is told that a revision is not in force yet."""
SELDOM_S: Final = 60.0
"""Between two such words while nothing changes, at most."""


class Put(msgspec.Struct, frozen=True):
    """A document that came with a revision."""

    key: str
    revision: int
    refused: str = ""
    """Why no agent of this version takes it."""
    not_enforced: str = ""
    """Which agents do not know what it uses; a sentence."""


class Waited(msgspec.Struct):
    """Revisions that are waited for together: `first` to `last`, mostly one."""

    first: int
    last: int
    began: float
    """When the first was heard of, in monotonic seconds."""
    changes: int = 0
    keys: list[str] = []
    """Of what changed; the first ones."""
    puts: list[Put] = []
    """Documents among them; the first ones."""


class Reached(msgspec.Struct, frozen=True):
    """All live agents run it."""

    waited: Waited
    after_s: float
    agents: int
    """0: none lives."""


class Behind(msgspec.Struct, frozen=True):
    """The oldest revision that is waited for is not in force everywhere yet."""

    waited: Waited
    since_s: float
    later: int
    """Changes of later revisions that are waited for, too."""
    runs: list[str]
    lagging: dict[str, int]
    """What these run; 0: they have not said."""


class Convergence:
    """What agents run, and what is waited for. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.agents: set[str] = set()
        """Those that live."""
        self.acks: dict[str, int] = {}
        self._waited: deque[Waited] = deque()
        self._behind: set[str] = set()
        """Agents that do not run the oldest of them."""
        self._next_word = 0.0
        self._gap_s = FIRST_WORD_S
        self._said: tuple[int, frozenset[str]] = (0, frozenset())

    @property
    def waits(self) -> bool:
        """Whether something is not in force everywhere yet."""
        return bool(self._waited)

    def clear(self) -> None:
        """Nothing is known any more."""
        self.__init__()  # type: ignore[misc]

    def changed(self, revision: int, key: str, put: Put | None, now: float) -> None:
        """Something changed that agents act on; in order of revisions."""
        last = self._waited[-1] if self._waited else None
        if last is not None and (revision <= last.last or len(self._waited) >= MOST_WAITED_FOR):
            waited = last
            waited.last = max(revision, last.last)
            if len(self._waited) == 1:
                self._look()
        else:
            waited = Waited(revision, revision, now)
            self._waited.append(waited)
            if len(self._waited) == 1:
                self._look()
        waited.changes += 1
        if key not in waited.keys and len(waited.keys) < MOST_KEYS:
            waited.keys.append(key)
        if put is not None and len(waited.puts) < MOST_KEYS:
            waited.puts.append(put)

    def runs(self, host: str, revision: int) -> None:
        """The word of an agent."""
        self.acks[host] = revision
        if self._waited and host in self.agents:
            if revision >= self._waited[0].last:
                self._behind.discard(host)
            else:
                self._behind.add(host)

    def forgets(self, host: str) -> None:
        """It has no word any more."""
        self.runs(host, 0)
        self.acks.pop(host, None)

    def lives(self, host: str) -> None:
        """An agent is there."""
        self.agents.add(host)
        self.runs(host, self.acks[host]) if host in self.acks else self._behind.add(host)

    def gone(self, host: str) -> None:
        """It is not any more."""
        self.agents.discard(host)
        self._behind.discard(host)

    def reached(self, now: float) -> list[Reached]:
        """What has come into force everywhere since the last time; to be asked after each update."""
        found = []
        while self._waited and not self._behind:
            lowest = min((self.acks.get(host, 0) for host in self.agents), default=self._waited[-1].last)
            while self._waited and self._waited[0].last <= lowest:
                waited = self._waited.popleft()
                found.append(Reached(waited, max(0.0, now - waited.began), len(self.agents)))
            self._look()
        return found

    def behind(self, now: float) -> Behind | None:
        """A word of what is not in force yet, when one is due: soon at first, then when something changes, and ever
        more seldom while nothing does."""
        if not self._waited or now - self._waited[0].began < FIRST_WORD_S or now < self._next_word:
            return None
        oldest = self._waited[0]
        said = (oldest.last, frozenset(self._behind))
        if said != self._said:
            self._said, self._gap_s = said, FIRST_WORD_S
        else:
            self._gap_s = min(SELDOM_S, 2 * self._gap_s)
        self._next_word = now + self._gap_s
        return Behind(
            oldest,
            now - oldest.began,
            sum(waited.changes for waited in self._waited) - oldest.changes,
            sorted(self.agents - self._behind),
            {host: self.acks.get(host, 0) for host in sorted(self._behind)},
        )

    def _look(self) -> None:
        """Who does not run the oldest."""
        oldest = self._waited[0].last if self._waited else 0
        self._behind = {host for host in self.agents if self.acks.get(host, 0) < oldest}
