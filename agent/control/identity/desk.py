"""Which signing request is whose turn, among issuers that do not speak to each other. Pure.

Laws
- Each request (a key of `requests/` at a revision) is answered once; put again, it is another.
- Issuers are ranked by hashing, for each request anew, and each waits STEP_S longer than the one before it. So one
  that is dead, or does not get on, costs the next one half a second, and order is a matter of work and not of safety:
  the claim is what excludes.
- A claim that ends without an answer begins the waiting anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from policies.hashing import hash64
from registry.identity_records import Request

STEP_S: Final = 0.5
Place = tuple[str, str]
"""A host, and what it asks for."""


class Asked(NamedTuple):
    """A request that was not answered."""

    request: Request
    revision: int
    since_s: float
    """When it was first seen, or its claim ended."""


class Desk:
    """One issuer's view of what is asked. Times are of any clock that only goes forward."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._requests: dict[Place, Asked] = {}
        self._answered: dict[Place, int] = {}
        """The revision of the request that each answer is to."""
        self._claimed: dict[Place, str] = {}
        """Who works on it."""
        self._open: set[Place] = set()
        """Requests without an answer."""
        self._orphans: set[Place] = set()
        """Answers without a request."""

    def on_request(self, place: Place, request: Request | None, revision: int, now_s: float) -> None:
        """One was put, or is gone."""
        if request is None:
            self._requests.pop(place, None)
        else:
            self._requests[place] = Asked(request, revision, now_s)
        self._sort(place)

    def on_answer(self, place: Place, revision: int | None) -> None:
        """A request of that revision was answered; None: the answer is gone."""
        if revision is None:
            self._answered.pop(place, None)
        else:
            self._answered[place] = revision
        self._sort(place)

    def _sort(self, place: Place) -> None:
        asked, answered = self._requests.get(place), self._answered.get(place)
        _set(self._open, place, asked is not None and asked.revision != answered)
        _set(self._orphans, place, asked is None and bool(answered))  # one to a token stands alone

    def on_claim(self, place: Place, issuer: str, now_s: float) -> None:
        """An issuer works on it; empty: nobody does any more."""
        if issuer:
            self._claimed[place] = issuer
        elif self._claimed.pop(place, ""):
            asked = self._requests.get(place)
            if asked is not None:
                self._requests[place] = asked._replace(since_s=now_s)

    def due(self, issuers: Collection[str], now_s: float) -> tuple[list[tuple[Place, Asked]], float]:
        """What is this issuer's turn now, and how long until the next may be (infinite: nothing waits)."""
        found: list[tuple[Place, Asked]] = []
        next_s = float("inf")
        for place in sorted(self._open):
            claimant = self._claimed.get(place, self._host)
            if claimant != self._host and claimant in issuers:
                continue
            asked = self._requests[place]
            wait_s = asked.since_s + STEP_S * self._rank(place, issuers) - now_s
            if wait_s <= 0:
                found.append((place, asked))
            else:
                next_s = min(next_s, wait_s)
        return found, next_s

    def current(self, place: Place, revision: int) -> Asked | None:
        """A request that still waits, as it stood at that revision."""
        asked = self._requests.get(place)
        return asked if asked is not None and asked.revision == revision else None

    def orphans(self, issuers: Collection[str]) -> list[Place]:
        """Answers to what nobody asks any more; this issuer's to clear away."""
        return [place for place in sorted(self._orphans) if not self._rank(place, issuers)]

    def waiting(self) -> int:
        """How many were not answered."""
        return len(self._open)

    def _rank(self, place: Place, issuers: Collection[str]) -> int:
        """How many of the others come before this one."""
        name = "/".join(place)
        mine = hash64(f"{name}\0{self._host}")
        return sum(hash64(f"{name}\0{other}") > mine for other in issuers if other != self._host)


def _set(places: set[Place], place: Place, belongs: bool) -> None:
    if belongs:
        places.add(place)
    else:
        places.discard(place)
