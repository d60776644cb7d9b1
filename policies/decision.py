"""What policies can say of a request. A route: send it on, send the client elsewhere, or answer. A guard: no."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from policies.endpoint import Endpoint
from policies.kinds.retry.policy import RetryPolicy
from policies.language.answer import DirectResponse
from policies.request import RequestView


class Subset(NamedTuple):
    """Which of a service's instances; hashable."""

    version: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    zone: str | None = None

    def selects(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint belongs to it."""
        if self.version is not None and endpoint.version != self.version:
            return False
        if self.zone is not None and endpoint.zone != self.zone:
            return False
        return all(endpoint.metadata.get(key) == value for key, value in self.labels)

    def __str__(self) -> str:
        parts = [f"version {self.version}"] if self.version is not None else []
        if self.zone is not None:
            parts.append(f"zone {self.zone}")
        return ", ".join([*parts, *(f"{key}={value}" for key, value in self.labels)])


class Edits(msgspec.Struct, frozen=True):
    """Header edits, ready to apply."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: frozenset[str] = frozenset()
    """Lower case."""


class Limits(NamedTuple):
    """Times of a rule, in place of the service's; in seconds, 0: the service's."""

    request_s: float = 0.0
    try_s: float = 0.0


class Others(Protocol):
    """Those that share what one of them cannot serve."""

    def choose(
        self, request: RequestView, cookie: str | None, rng: random.Random, serves: Callable[[Decision], bool]
    ) -> Decision | None:
        """Another decision, whose place serves; None: there is none. `cookie`: what the request's answer will set."""
        ...


class Forward(msgspec.Struct, frozen=True):
    """Send it on. None: as it is."""

    service: str | None = None
    subset: Subset | None = None
    target: str | None = None
    """Path and query that the instance sees."""
    host: str | None = None
    request_headers: Edits | None = None
    response_headers: Edits | None = None
    retry: RetryPolicy | None = None
    """In place of the service's own."""
    limits: Limits | None = None
    """Too."""
    others: Others | None = None
    """Who takes it where nobody there can serve it."""
    cookie: str | None = None
    """What a Set-Cookie of the answer says, where it may: the user has none yet that keeps him where he is."""


class Redirect(msgspec.Struct, frozen=True):
    """Send the client elsewhere."""

    status: int
    location: str


class Respond(msgspec.Struct, frozen=True):
    """Answer by itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def respond(answer: DirectResponse) -> Respond:
    """An answer that a document writes, ready to be sent; a body says what it is, or browsers guess."""
    headers = tuple(answer.headers.items())
    if answer.body and not any(name.lower() == "content-type" for name in answer.headers):
        headers += (("content-type", "text/plain; charset=utf-8"),)
    return Respond(answer.status, headers, answer.body.encode())


class Denied(msgspec.Struct, frozen=True):
    """A guard lets a request not pass."""

    status: int
    reason: str
    rule: str = ""
    """Under which it is counted; the kind's name where there is none."""
    retry_after_s: int = 0
    hidden: bool = False
    """Whoever calls is answered as if there was no such service."""


class Guard(Protocol):
    """What the document of a kind compiles to that only says whether requests may pass; None in its place: all may.

    One phase of the proxy asks every such kind, at its place in the catalogue, on its side. Where documents of every
    level apply, each is asked, the most specific first, and the first that denies is heard.
    """

    def decide(self, request: RequestView) -> Denied | None:
        """None: it may. Moves and counts nothing: explanations ask the same."""
        ...


class Share(NamedTuple):
    """What a target of a split gets of what comes to its rule."""

    to: str
    percent: float


class Decision(msgspec.Struct, frozen=True):
    """What a route says of a request."""

    rule: str
    reason: str
    action: Forward | Redirect | Respond
    shares: tuple[Share, ...] = ()
    """Of the whole split that it was drawn from."""
