"""`audit`: which requests to a service are recorded, and what of them. (`mode: audit` is another thing: a document that
is only watched.)"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import DAY_S, Age, age_s
from policies.language.matching import template_regex
from policies.language.plain import Flaw, below, read_at
from policies.request import SECRET_HEADERS, TOKEN

LEAST_KEEP_S: Final = 3600.0
MOST_KEEP_S: Final = 3660 * DAY_S
_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Audit(Document, frozen=True, kw_only=True):
    """The document."""

    requests: Annotated[
        Literal["denied", "all"],
        Meta(description="denied: those that nobody let in; all: those that were let in and refused, too"),
    ] = "denied"
    share: Annotated[float, Meta(gt=0, le=1, description="Of those that are let in, with all: 0.01 is one in 100")] = (
        1.0
    )
    claims: Annotated[tuple[_Name, ...], Meta(max_length=20, description="Of a verified token")] = ()
    headers: Annotated[tuple[_Name, ...], Meta(max_length=20, description="Of the request")] = ()
    templates: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/", extra={"right": "a path, such as /users/{id}"})], ...],
        Meta(max_length=50, description="Paths are recorded as the first of these that they match: /users/{id}"),
    ] = ()
    redact: Annotated[
        tuple[Literal["client", "path"], ...], Meta(description="What is not recorded: the client's address, the path")
    ] = ()
    keep: Annotated[Age | None, Meta(description="How long: 90d, 12h; without it as the agents' settings say")] = None
    durability: Annotated[
        Literal["async", "sync"],
        Meta(description="sync: nothing is handed on or answered before its record is on disk"),
    ] = "async"
    on_failure: Annotated[
        Literal["deny", "allow"], Meta(description="With sync: what becomes of a request that cannot be recorded")
    ] = "deny"

    def check(self) -> None:
        """No secrets, and templates that are some."""
        for n, name in enumerate(self.headers):
            if not TOKEN.match(name):
                raise Flaw(below("$", "headers", n), f"{name[:60]!r} is no header name")
            if name.lower() in SECRET_HEADERS:
                raise Flaw(below("$", "headers", n), f"{name} is a secret, and secrets are not recorded")
        for n, template in enumerate(self.templates):
            template_regex(below("$", "templates", n), template)
        if self.keep is not None:
            kept_s = read_at("$.keep", age_s, self.keep)
            if not LEAST_KEEP_S <= kept_s <= MOST_KEEP_S:
                raise Flaw("$.keep", f"{kept_s:g} s; from 1h to {MOST_KEEP_S / DAY_S:g}d")
        if self.share < 1 and self.requests != "all":
            raise Flaw("$.share", "all that is denied is recorded; a share goes with requests: all")
        if self.on_failure == "allow" and self.durability != "sync":
            raise Flaw("$.on_failure", "a request waits for its record with durability: sync only")
