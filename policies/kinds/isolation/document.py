"""`isolation`: for whom a service is there at all."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.language.document import Document
from policies.language.names import parse_pattern
from policies.language.plain import below, read_at
from policies.language.trust import SCHEME, check_member, check_trust_domain


class Isolation(Document, frozen=True, kw_only=True):
    """The document."""

    allow: Annotated[
        tuple[str, ...],
        Meta(
            max_length=1000,
            description="Services that see it, as exact names, *.production or *; of callers in other meshes, those "
            "named as spiffe://us.shoal or spiffe://us.shoal/svc/shop; none: nobody does",
        ),
    ]
    anonymous: Annotated[bool, Meta(description="Whether callers see it that are not known to be any service")] = False

    def check(self) -> None:
        """Each is a pattern, or somebody of another trust domain."""
        for n, text in enumerate(self.allow):
            read_at(below("$", "allow", n), strangers if text.startswith(SCHEME) else parse_pattern, text)


def strangers(text: str) -> str:
    """A trust domain (`us.shoal`) that is written as a SPIFFE id is, or the id of a caller in it. Raises ValueError."""
    if "/" in text.removeprefix(SCHEME):
        return check_member(text)
    return check_trust_domain(text.removeprefix(SCHEME))
