# mypyc: compiled
"""Golden signals of one service in one worker: how many requests, how many came to what, how long they took; for each
edge, which is who calls, by which rule, which version answers, and whose agent is at the other end.

Laws
- A request is observed once, where it ends: a service's own histogram is the sum of its edges'.
- Who calls is said by others. So edges are bounded, those of one service and those of all together, and so are their
  words; what is beyond that is counted as others', and it is counted how often that was.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final, TypeAlias

Key: TypeAlias = tuple[bool, str, str, str, str]
"""First, caller, route, version, peer. `first`: this agent is the first that meets the request; those of all agents
together are every request once. `caller`: the calling service, `spiffe://` and its trust domain for one of another
mesh, empty when nobody knows. `route`: the rule that was taken. `version`: of the instance that answered, or that was
tried last. `peer`: the host of the agent at the other end; empty where there is none."""
Exemplar: TypeAlias = tuple[str, float, float]
"""A trace's id, how long its request took (s), and when it ended (Unix s)."""

BOUNDS_S: Final = tuple(round(0.0005 * 2 ** (n / 2), 9) for n in range(35))
"""Of the histograms: from 0.5 ms to about 65 s, so that a quantile is known to a fifth or better."""
MOST_EDGES: Final = 1_000
"""Of one service."""
MOST_IN_ALL: Final = 10_000
"""Of a worker: 4 to 20 MB."""
MOST_EXEMPLARS: Final = 100
"""Of one service."""
EXEMPLAR_S: Final = 1.0
"""For so long one counts for all of its bucket: who scrapes sees no more."""
MAX_WORD: Final = 256
"""Of what names an edge; no service's name is longer."""
OTHERS: Final = "others"
CANCELLED: Final = 600
"""In place of a status: the calling agent has given it up before an answer."""
_CLASSES: Final = 7
_FOLDED: Final[tuple[Key, Key]] = (
    (False, OTHERS, OTHERS, OTHERS, OTHERS),
    (True, OTHERS, OTHERS, OTHERS, OTHERS),
)


class Room:
    """For the edges of all services of a worker."""

    __slots__ = ("most", "taken")

    def __init__(self, most: int = MOST_IN_ALL) -> None:
        self.most = most
        self.taken = 0


class Edge:
    """What was seen of it."""

    __slots__ = ("buckets", "duration_s", "requests", "seen", "since")

    def __init__(self) -> None:
        self.requests = [0] * _CLASSES
        """By class of status: index 2 is 2xx. Index 0: the client went away before an answer; 6: CANCELLED."""
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.duration_s = 0.0
        self.seen = 0
        """Of which buckets there is an exemplar of the last moments, a bit each ..."""
        self.since = 0.0
        """... and since when that counts."""


class Signals:
    """Of one service."""

    __slots__ = ("_room", "edges", "exemplars", "folded")

    def __init__(self, room: Room | None = None) -> None:
        """`room`: shared by the services of a worker; without one this service is alone."""
        self.edges: dict[Key, Edge] = {}
        self.exemplars: dict[tuple[Key, int], Exemplar] = {}
        """The last for a bucket of an edge."""
        self.folded = 0
        """Requests that were counted as others'."""
        self._room = room if room is not None else Room()

    def observe(self, key: Key, status: int, duration_s: float, now: float) -> bool:
        """A request that ended with a status (0: none; or CANCELLED), after so long. `now`: seconds, of a clock that
        only goes forward. Returns whether there is no exemplar yet of its bucket and of this second."""
        edge = self.edges.get(key)
        if edge is None:
            edge = self._edge(key)
        bucket: int = bisect_left(BOUNDS_S, duration_s)
        edge.requests[status // 100] += 1
        edge.buckets[bucket] += 1
        edge.duration_s += duration_s
        if now - edge.since >= EXEMPLAR_S:
            edge.since, edge.seen = now, 0
        return not edge.seen >> bucket & 1

    def remember(self, key: Key, trace: str, duration_s: float, ended_at: float) -> None:
        """An observed request is one of a sampled trace."""
        if key not in self.edges:
            key = _FOLDED[key[0]]
        bucket: int = bisect_left(BOUNDS_S, duration_s)
        edge = self.edges.get(key)
        if edge is not None:
            edge.seen |= 1 << bucket
        place = key, bucket
        exemplars = self.exemplars
        if len(exemplars) >= MOST_EXEMPLARS and place not in exemplars:
            del exemplars[next(iter(exemplars))]
        exemplars[place] = (trace, duration_s, ended_at)

    def _edge(self, key: Key) -> Edge:
        """A new one; or, where there is no room, that of the others."""
        first, caller, route, version, peer = key
        room = self._room
        words = (
            len(caller) <= MAX_WORD and len(route) <= MAX_WORD and len(version) <= MAX_WORD and len(peer) <= MAX_WORD
        )
        if not words or len(self.edges) >= MOST_EDGES or room.taken >= room.most:
            self.folded += 1
            key = _FOLDED[first]
            known = self.edges.get(key)
            if known is not None:
                return known
        room.taken += 1
        edge = self.edges[key] = Edge()
        return edge

    def leave(self) -> None:
        """Its service is gone: there is room for others."""
        self._room.taken -= len(self.edges)
        self._room = Room()  # of what is still under way
        self.edges = {}
        self.exemplars = {}

    @property
    def requests(self) -> list[int]:
        """Of all edges, by class of status."""
        found = [0] * _CLASSES
        for edge in self.edges.values():
            add(found, edge.requests)
        return found

    @property
    def buckets(self) -> list[int]:
        """Of all edges."""
        found = [0] * (len(BOUNDS_S) + 1)
        for edge in self.edges.values():
            add(found, edge.buckets)
        return found

    @property
    def duration_s(self) -> float:
        """Of all edges."""
        found = 0.0
        for edge in self.edges.values():
            found += edge.duration_s
        return found

    def as_frame(self) -> list[list[Any]]:
        """What `ask metrics` answers of edges: first, caller, route, version, peer, requests, duration, buckets."""
        return [
            [first, caller, route, version, peer, edge.requests, edge.duration_s, edge.buckets]
            for (first, caller, route, version, peer), edge in self.edges.items()
        ]

    def exemplars_frame(self) -> list[list[Any]]:
        """The same for exemplars: of an edge, the bucket's index, the trace's id, how long it took, and when it was."""
        return [
            [*key, bucket, trace, duration_s, ended_at]
            for (key, bucket), (trace, duration_s, ended_at) in self.exemplars.items()
        ]


def add(into: list[int], more: list[int]) -> None:
    """To each number its own."""
    for index in range(len(more)):
        into[index] += more[index]
