"""`timeout`: how long connecting, a try, a whole request and silence may take."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import DAY_S, Duration, seconds
from policies.language.plain import Flaw, read_at


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
    idle: Annotated[
        Duration | None,
        Meta(description="Without a byte either way, of a body (default 5m) or an upgraded connection (default 1h)"),
    ] = None

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
            found[name] = read_at(f"$.{name}", seconds, value)
            if found[name] > DAY_S:
                raise Flaw(f"$.{name}", f"{found[name]:g} s; at most 24h, or 0 for no limit")
        if found.get("try") and found.get("request") and found["try"] > found["request"]:
            raise Flaw(
                "$.try", f"{found['try']:g} s is longer than the whole request may take ({found['request']:g} s)"
            )
