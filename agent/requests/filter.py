"""Which requests somebody wants to see, and what agents tell each other of them (`agent.control.traffic.following`)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from agent.questions import Question


class Filter(msgspec.Struct, frozen=True):
    """Those that all of it goes for; what is empty goes for any."""

    service: str = ""
    """Or a pattern: `*.production`."""
    statuses: tuple[str, ...] = ()
    """`404`, `5xx`."""
    slower_s: float = 0.0
    """That took so long, or longer."""
    path: str = ""
    """That the path begins with."""
    caller: str = ""
    method: str = ""
    direction: Literal["", "inbound", "outbound"] = ""
    flag: str = ""
    """That the flag begins with: `service.`, `policy.authz`."""
    failed: bool = False
    """Only those that have the flag of a fault, or were answered with 5xx."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """How far somebody has read what an agent's stream has."""

    stream: str
    """Which stream: another one after a restart, or once nobody had asked for a while."""
    after: int
    """The number of the next request that is not known yet."""


class RequestsAsked(msgspec.Struct, frozen=True):
    """Requests, as they end; or the last ones that are known."""

    filter: Filter
    places: dict[str, Place] = {}
    """By host; who is not among them begins."""
    last: int = 0
    """So many of those that were recorded lately; 0: those that end from now on."""
    most_bytes: int = 512 * 1024
    """Of lines in the answer; one batch of a worker's is told in any case."""


class RequestsTold(msgspec.Struct, frozen=True):
    """Them, the oldest first."""

    lines: bytes = b""
    """JSON, one a line."""
    lost: int = 0
    """That there was no room for, somewhere among these."""
    place: Place | None = None
    """What to ask with the next time."""
    begun: bool = False
    """Whether the place that was asked with is none any more: what ended meanwhile nobody knows."""
    recorded: bool = False
    """Whether this agent records requests for anybody else; where it does not, it knows of no last ones."""


REQUESTS: Final = Question("requests", RequestsAsked, RequestsTold, most_bytes=2 * 1024 * 1024)
