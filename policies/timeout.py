"""`timeout`: how long connecting, one try, the whole request and silence may take; and deadlines down a chain.

A deadline travels as `x-shoal-deadline`, in milliseconds left, so that no clocks have to agree. A callee never gets
longer than its caller has left.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from policies.document import Document, Fault
from policies.duration import Duration, seconds

MAX_S = 24 * 3600.0


class Timeout(Document, frozen=True, kw_only=True):
    """The document. 0 means: no limit."""

    connect: Annotated[Duration | None, Meta(description="For a connection to an endpoint; default 1s")] = None
    try_: Annotated[Duration | None, Meta(description="For one try, up to its answer's head; default none")] = (
        msgspec.field(default=None, name="try")
    )
    request: Annotated[
        Duration | None,
        Meta(description="For the whole request, retries and bodies included. Without it: 15s from the request's "
             "last byte to its answer's first"),
    ] = None  # fmt: skip
    idle: Annotated[Duration | None, Meta(description="Without a byte of a body either way; default 5m")] = None

    def check(self) -> None:
        """Every length is one, and none outlasts a day."""
        found = {}
        for name, value in (
            ("connect", self.connect),
            ("try", self.try_),
            ("request", self.request),
            ("idle", self.idle),
        ):
            if value is None:
                continue
            try:
                found[name] = seconds(value)
            except ValueError as error:
                raise Fault(f"$.{name}", str(error)) from None
            if found[name] > MAX_S:
                raise Fault(f"$.{name}", f"{found[name]:g} s; at most 24h, or 0 for no limit")
        if found.get("try") and found.get("request") and found["try"] > found["request"]:
            raise Fault(
                "$.try", f"{found['try']:g} s is longer than the whole request may take ({found['request']:g} s)"
            )


class Timeouts(msgspec.Struct, frozen=True):
    """What is in force, in seconds; 0 is no limit."""

    connect_s: float = 1.0
    try_s: float = 0.0
    request_s: float = 15.0
    idle_s: float = 300.0


def compile(document: Timeout | None) -> Timeouts:
    """The limits of a document, or the defaults."""
    if document is None:
        return Timeouts()
    default = Timeouts()

    def limit(value: float | str | None, otherwise: float) -> float:
        return otherwise if value is None else seconds(value)

    return Timeouts(
        connect_s=limit(document.connect, default.connect_s),
        try_s=limit(document.try_, default.try_s),
        request_s=limit(document.request, default.request_s),
        idle_s=limit(document.idle, default.idle_s),
    )


def remaining_s(value: str) -> float | None:
    """Seconds left by an `x-shoal-deadline`; None when it is no such number, which then counts as absent."""
    if not value.isascii() or not value.isdigit() or len(value) > 10:
        return None
    return int(value) / 1000
