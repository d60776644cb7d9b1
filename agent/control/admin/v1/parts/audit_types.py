"""What the API takes and shows of audit logs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.control.admin.v1.types import Base, HostName, Printable

When = Annotated[float, Meta(ge=0, le=1e11, description="Seconds of the epoch")]
Hosts = Annotated[list[HostName], Meta(max_length=1000, description="Hosts; none: all")]


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is asked for."""


class AuditQuery(Wish, frozen=True, kw_only=True):
    """Which records. What is empty is not asked for."""

    since: When
    until: When
    events: Annotated[
        tuple[Printable, ...],
        Meta(max_length=100, description="Whole names, or beginnings that end with a dot: authz."),
    ] = ()
    service: Printable = ""
    caller: Printable = ""
    person: Printable = ""
    client: Printable = ""
    claims: Annotated[dict[str, str], Meta(max_length=100)] = msgspec.field(default_factory=dict)
    by: Annotated[Printable, Meta(description="The field to count by; empty: the records themselves")] = ""
    most: Annotated[int, Meta(ge=1, le=10_000, description="The newest records, or the most frequent values")] = 1000
    of: Annotated[tuple[HostName, ...], Meta(max_length=1000, description="Hosts; none: all")] = ()


class AuditSpan(Base, frozen=True, kw_only=True):
    """Of time, where records of a host are missing."""

    host: str
    first: float
    last: float
    reason: str


class AuditCount(Base, frozen=True, kw_only=True):
    """How many records have a value in the field that is counted by."""

    value: str
    count: int


class AuditFound(Base, frozen=True, kw_only=True):
    """Of all hosts, merged."""

    hosts: Annotated[list[str], Meta(description="Whose logs are in it")]
    missing: Annotated[dict[str, str], Meta(description="By host, whose log is not, why")]
    spans: list[AuditSpan]
    total: Annotated[int, Meta(description="That were found, shown or not")]
    records: list[dict[str, Any]] = msgspec.field(default_factory=list)
    counts: list[AuditCount] = msgspec.field(default_factory=list)


class AuditVerify(Wish, frozen=True, kw_only=True):
    """Whose logs."""

    hosts: Hosts = msgspec.field(default_factory=list)


class AuditVerified(Base, frozen=True, kw_only=True):
    """By host."""

    logs: Annotated[dict[str, dict[str, Any]], Meta(description="What was found in each, under `findings`")]
    missing: Annotated[dict[str, str], Meta(description="Whose log could not be looked through, and why")]


class AuditErase(Wish, frozen=True, kw_only=True):
    """Whom."""

    field: Annotated[Printable, Meta(description="person, client, claim.<name> or header.<name>")]
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class AuditErasedThere(Base, frozen=True, kw_only=True):
    """On one host."""

    records: int
    segments: int
    copies: Annotated[int, Meta(description="Records in what it holds of others")] = 0
    reason: Annotated[str, Meta(description="Why not all was done")] = ""


class AuditErased(Base, frozen=True, kw_only=True):
    """By host."""

    erased: dict[str, AuditErasedThere]
    missing: Annotated[dict[str, str], Meta(description="Where it was not done, and why")]
