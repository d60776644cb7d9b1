"""`log`: which requests to a service have an access record, and what is in it."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import Duration, bounded
from policies.language.plain import Flaw, below
from policies.request import TOKEN

MAX_SLOW_S: Final = 3600.0
STATUS: Final = re.compile(r"[1-5](?:xx|[0-9]{2})\Z")
_Name = Annotated[str, Meta(min_length=1, max_length=128)]
Field = Literal[
    "time",
    "direction",
    "caller",
    "service",
    "endpoint",
    "method",
    "host",
    "target",
    "status",
    "duration_s",
    "bytes_in",
    "bytes_out",
    "attempts",
    "request_id",
    "why",
    "client",
    "protocol",
    "user_agent",
    "flag",
    "trace_id",
    "first_byte_s",
    "queue_s",
    "connect_s",
    "tls_s",
    "verdicts",
    "failed",
    "headers",
]
"""What a record may have, as `agent.proxy.report.record` has it."""


MAX_BODY_BYTES: Final = 16_384
_MEDIA: Final = re.compile(r"(?:\*|[a-z0-9!#$&^_.+-]{1,60}/(?:\*|[a-z0-9!#$&^_.+-]{1,100}))\Z")


class Tap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `shoal tap` may show of live requests, beside how they were decided."""

    headers: Annotated[bool, Meta(description="Those of requests and answers; secrets are [redacted]")] = False
    bodies: Annotated[
        tuple[_Name, ...], Meta(max_length=20, description="Of these types: application/json, text/*; * for any text")
    ] = ()
    max_bytes: Annotated[int, Meta(ge=64, le=MAX_BODY_BYTES, description="Of the beginning of each body")] = 4096
    redact: Annotated[
        tuple[_Name, ...],
        Meta(max_length=50, description="Fields of JSON and forms, at any depth, that are shown without their values"),
    ] = ()


class Log(Document, frozen=True, kw_only=True):
    """The document."""

    requests: Annotated[
        Literal["all", "errors", "none"],
        Meta(description="errors: those that failed, or were slow; none: no request at all"),
    ] = "all"
    share: Annotated[
        float, Meta(gt=0, le=1, description="Of those that neither failed nor were slow: 0.01 is one in 100")
    ] = 1.0
    statuses: Annotated[
        tuple[str | int, ...], Meta(max_length=50, description="Answers that count as failed: 5xx, 429")
    ] = ("5xx",)
    slow: Annotated[Duration | None, Meta(description="What takes so long is always recorded: 500ms")] = None
    leave_out: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/", extra={"right": "a path, such as /healthz or /static/*"})], ...],
        Meta(max_length=50, description="Paths that are recorded only when they failed or were slow: /healthz"),
    ] = ()
    fields: Annotated[tuple[Field, ...], Meta(description="What a record has; without it, everything")] = ()
    headers: Annotated[tuple[_Name, ...], Meta(max_length=20, description="Of the request, that are recorded")] = ()
    redact_headers: Annotated[
        tuple[_Name, ...], Meta(max_length=50, description="Of headers, those that only show that they were there")
    ] = ()
    redact_query: Annotated[
        tuple[_Name, ...], Meta(max_length=50, description="Fields of the query without their values; * for all")
    ] = ()
    tap: Annotated[
        Tap | None, Meta(description="What `shoal tap` may show; without it, neither headers nor bodies")
    ] = None

    def check(self) -> None:
        """Statuses, headers and paths that are some; and nothing that would do nothing."""
        for n, status in enumerate(self.statuses):
            if not STATUS.match(str(status)):
                raise Flaw(below("$", "statuses", n), f"{str(status)[:60]!r} is no status; such as 5xx, 404 or 429")
        if self.slow is not None:
            bounded("$.slow", self.slow, 0.001, MAX_SLOW_S)
        for field in ("headers", "redact_headers"):
            for n, name in enumerate(getattr(self, field)):
                if not TOKEN.match(name):
                    raise Flaw(below("$", field, n), f"{name[:60]!r} is no header name")
        for n, path in enumerate(self.leave_out):
            if "*" in path[:-1]:
                raise Flaw(below("$", "leave_out", n), f"{path[:60]!r}: a * may stand at the end only, as in /static/*")
        if self.share < 1 and self.requests != "all":
            raise Flaw("$.share", "what failed is recorded whole; a share goes with requests: all")
        if self.leave_out and self.requests != "all":
            raise Flaw("$.leave_out", "what neither failed nor was slow is left out already, by $.requests")
        if self.headers and self.fields and "headers" not in self.fields:
            raise Flaw("$.fields", "$.headers asks for some, and headers is not among the fields")
        if self.tap is not None:
            _check_tap(self.tap)


def _check_tap(tap: Tap) -> None:
    if not tap.headers and not tap.bodies:
        raise Flaw("$.tap", "shows nothing: headers: true, or bodies with types such as application/json")
    if tap.redact and not tap.bodies:
        raise Flaw("$.tap.redact", "of bodies, and none is shown; headers are redacted by $.redact_headers")
    for n, media in enumerate(tap.bodies):
        if not _MEDIA.match(media):
            reason = f"{media[:60]!r} is no type; such as application/json, text/* or *"
            raise Flaw(below("$", "tap", "bodies", n), reason)
