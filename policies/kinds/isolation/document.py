"""`isolation`: for whom a service is there at all."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.language.document import Document
from policies.language.names import parse_pattern
from policies.language.plain import below, read_at


class Isolation(Document, frozen=True, kw_only=True):
    """The document."""

    allow: Annotated[
        tuple[str, ...],
        Meta(max_length=1000, description="Services that see it, as exact names, *.production or *; none: nobody does"),
    ]
    anonymous: Annotated[bool, Meta(description="Whether callers see it that are not known to be any service")] = False

    def check(self) -> None:
        """Each is a pattern."""
        for n, text in enumerate(self.allow):
            read_at(below("$", "allow", n), parse_pattern, text)
