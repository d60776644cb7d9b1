"""What agents ask each other about audit logs.

    POST /countersign       Countersign → Countersigned   to another agent, at intervals: it keeps the head
    POST /keep              Piece       → Got             to another agent: a closed segment, packed, piece by piece
    POST /erase             Erase       → Erased          to every agent: somebody is to be erased
    POST /ask/audit         Query       → Found           records, by what is asked for
    POST /ask/audit-heads   HeadsAsked  → HeadsKept       heads that were countersigned, and whose segments are held
    POST /ask/audit-check   Verify      → Verified        whether a log is as it was written

Law: what is told of another host's log is judged by whoever asked for it; what is told of the own one is a report.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent.audit.heads import Head, Kept
from agent.audit.verify import Report
from agent.questions import AUDIT, AUDIT_CHECK, AUDIT_HEADS, Question

MOST_ANSWERED: Final = 4 * 1024 * 1024
"""Bytes of records of one host in one answer."""
MOST_HEADS: Final = 20
"""Of one host, that another is handed to be compared with."""


class Countersign(msgspec.Struct, frozen=True):
    """The head of a log, as its agent has signed it."""

    head: Head
    signature: str = ""
    certificate: str = ""
    chain: str = ""
    """PEM; empty: nothing is proven there."""


class Countersigned(msgspec.Struct, frozen=True):
    """It is noted; or why not."""

    at: float = 0.0
    signature: str = ""
    certificate: str = ""
    chain: str = ""
    refused: str = ""


class Piece(msgspec.Struct, frozen=True):
    """Of a closed segment, packed by gzip."""

    host: str
    name: str
    offset: int
    data: bytes
    last: bool


class Got(msgspec.Struct, frozen=True):
    """How many of its bytes are here."""

    size: int
    whole: bool = False
    refused: str = ""


class Erase(msgspec.Struct, frozen=True):
    """Whom."""

    field: str
    """`person`, `client` or `claim.<name>`."""
    value: str
    by: str = ""
    """The person who wishes it."""


class Erased(msgspec.Struct, frozen=True):
    """What was done, on one host."""

    records: int
    segments: int
    copies: int = 0
    """Records in what is held of other hosts."""
    reason: str = ""
    """Why not all was done."""


class Query(msgspec.Struct, frozen=True):
    """Which records. What is empty is not asked for."""

    since: float
    """Seconds of the epoch."""
    until: float
    events: tuple[str, ...] = ()
    """Whole names, or beginnings that end with a dot: `authz.`."""
    service: str = ""
    caller: str = ""
    person: str = ""
    client: str = ""
    claims: dict[str, str] = {}
    by: str = ""
    """The field to count by; empty: the records themselves."""
    most: int = 1000
    """The newest of them; or the most frequent values."""
    of: tuple[str, ...] = ()
    """Hosts whose copies are asked for, of whoever holds any; empty: the own log."""


class Span(msgspec.Struct, frozen=True):
    """Of time, where something is missing."""

    first: float
    last: float
    reason: str


class Found(msgspec.Struct, frozen=True):
    """Of one log."""

    host: str
    records: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    total: int = 0
    """That were found, though not all are told."""
    missing: list[Span] = []
    last: float = 0.0
    """When the last record was made that is known of the log; 0: none is."""


class FoundAll(msgspec.Struct, frozen=True):
    """Of one agent: its own log, or the copies that were asked for."""

    logs: list[Found]


class HeadsAsked(msgspec.Struct, frozen=True):
    """Of these hosts; of none: of all."""

    hosts: tuple[str, ...] = ()


class HeadsKept(msgspec.Struct, frozen=True):
    """At one agent."""

    heads: dict[str, list[Kept]]
    """By host: the last of them."""
    chains: dict[str, str]
    """PEM by fingerprint."""
    copies: dict[str, int] = {}
    """By host: segments that are held."""


class Verify(msgspec.Struct, frozen=True):
    """The own log, or the copy of another host's."""

    of: str = ""
    heads: tuple[Kept, ...] = ()
    """That others hold of it."""
    chains: dict[str, str] = {}


class Verified(msgspec.Struct, frozen=True):
    """What came of it."""

    report: Report
    note: str = ""
    """What could not be looked at."""


RECORDS: Final = Question(AUDIT, Query, FoundAll, MOST_ANSWERED + 65536)
HEADS: Final = Question(AUDIT_HEADS, HeadsAsked, HeadsKept, 1024 * 1024)
CHECK: Final = Question(AUDIT_CHECK, Verify, Verified)
