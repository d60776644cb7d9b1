"""Issues, tickets and incidents: one for each condition, commented on, and closed with the condition.

What was opened is known by what the answer called it, and not looked for: lists lag, labels are dropped, somebody takes
one off. It is looked for, by a mark made from the event's key, where that is not known: nothing is remembered, or the
answer to an opening never came. What was already said about an event is found by its id, so that a delivery that is
begun again does not say it twice.

Laws
- Before something is opened it is said so (`Intend`), and when the answer is lost nothing else is opened until a search
  must have found it (`lag_s`).
- Where there may be two of a condition, for one was asked for twice, both are closed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from agent.hooks.steps import (
    Action,
    Answer,
    Done,
    Intend,
    Problem,
    Request,
    Response,
    Steps,
    json_request,
)
from policies.kinds.webhook.event import Effect, Event
from registry.records import Opened

MAX_TITLE: Final = 250
GONE: Final = (404, 410)


def mark(key: str) -> str:
    """What a condition is looked for by."""
    return hashlib.sha256(key.encode()).hexdigest()[:20]


def marks(event: Event) -> tuple[str, str]:
    """Of an event's condition: as it is, and as versions made it that did not know of other meshes of this name."""
    return mark(event.key), mark(f"{event.mesh}/{event.subject}")


def facts(event: Event) -> list[tuple[str, str]]:
    """What there is to say, in order."""
    first = [("event", event.name), ("subject", event.subject), ("mesh", event.mesh), ("time", event.time)]
    rest = [(name, str(value)) for name, value in event.data.items() if value not in (None, "")]
    return first + rest


def listed(event: Event, indent: str) -> str:
    """Indented: within a block of code nothing is markup, mentions somebody, or looks like one of our marks."""
    lines = [f"{name}: {value}" for name, value in facts(event)]
    return "\n".join(indent + line for text in lines for line in text.splitlines())


def lines(text: object) -> list[str]:
    """Of what should be a text."""
    return text.splitlines() if isinstance(text, str) else []


class Keeping(Steps):
    """What all have in common: know it or find it, then open, comment, close."""

    __slots__ = ("before", "closing", "event", "found", "headers", "id", "place", "reopen_s")

    lag_s: float
    """For so long a search may not find what was opened."""
    what: str
    """What it is called."""

    def __init__(
        self,
        event: Event,
        before: Opened | None,
        place: str,
        headers: Mapping[str, str],
        timestamp: int,
        reopen_s: float,
    ) -> None:
        super().__init__(timestamp)
        self.event = event
        self.before = before
        self.place = place
        self.headers = dict(headers)
        self.closing = event.effect in (Effect.CLOSES, Effect.ENDS)
        self.reopen_s = reopen_s
        """After it was closed, for so long it is opened again instead of another one."""
        self.id = ""
        self.found: deque[str] = deque()
        """Others of the condition, still to be closed."""

    def begin(self) -> Action:
        if self.event.effect is Effect.TELLS:
            return Done(f"{self.event.name} opens and closes nothing")
        self.found.clear()
        known = self.before if self.before is not None and self.before.place == self.place else None
        if known is None or not known.id:
            return self.search()
        self.id = known.id
        if known.state == "closed" and (self.closing or self._age_s(known.at) > self.reopen_s):
            return Done(f"{self.what} {self.id} is closed") if self.closing else self.not_found()
        return self.look()

    def _age_s(self, at: str) -> float:
        try:
            return max(0.0, self.timestamp - datetime.fromisoformat(at).timestamp())
        except ValueError:
            return float("inf")

    # What each of them does.

    def look(self) -> Action:
        """The first request, for what is known by its id."""
        raise NotImplementedError

    def search(self) -> Action:
        """The first request, where nothing is known."""
        raise NotImplementedError

    def create(self) -> Request:
        """What opens it."""
        raise NotImplementedError

    def created(self, answer: Answer) -> Action:
        """Its answer."""
        raise NotImplementedError

    # What they have in common.

    def searched(self, ids: list[str]) -> Action:
        """What a search has found, of this condition."""
        others = deque(id for id in ids if id != self.id)
        if self.closing and self.id:  # the known one is closed already
            self.found = others
            return self.next_one()
        if not ids:
            return self.not_found()
        self.id, self.found = ids[0], deque(ids[1:])
        return self.look()

    def not_found(self) -> Action:
        """Nothing is open."""
        if self.closing:
            return Done(f"no {self.what} was open")
        before = self.before
        if before is not None and before.state == "opening" and before.place == self.place:
            left_s = self.lag_s - self._age_s(before.at)
            if left_s > 0:
                said = f"no answer told whether the {self.what} was opened; it is looked for before another one is"
                raise Problem(said, again=True, after_s=left_s)
        return self.ask(Intend(self.place), self._intended)

    def _intended(self, answer: Answer) -> Action:
        return self.ask(self.create(), self.created)

    def closed(self) -> Action:
        """The one at hand is. Where an answer was lost twice there may be another."""
        first = self.before is not None and self.id == self.before.id
        if first and self.before is not None and self.before.asked > 1:
            return self.search()
        return self.next_one()

    def next_one(self) -> Action:
        """Close the next of them, if there is one."""
        if self.found:
            self.id = self.found.popleft()
            return self.look()
        return Done(f"closed {self.what} {self.id}", self.place, self.id)

    def was_closed(self) -> Action:
        """By somebody, before it was over."""
        if self.closing:
            return (
                self.next_one()
                if self.found
                else Done(f"{self.what} {self.id} was closed already", self.place, self.id)
            )
        return self.not_found()

    def is_gone(self, answer: Answer) -> bool:
        """Whether what is known by its id is not there any more: deleted, or moved to where we do not see it."""
        return isinstance(answer, Response) and answer.status in GONE

    def gone(self) -> Action:
        """What then. An opening is not searched for: the search may still show it."""
        if self.closing:
            return self.next_one() if self.found else Done(f"{self.what} {self.id} is not there any more")
        return self.not_found()

    def get(self, url: str) -> Request:
        """A request that reads."""
        return json_request("GET", url, self.headers)

    def send(self, method: str, url: str, body: Any) -> Request:
        """A request that writes."""
        return json_request(method, url, self.headers, body)
