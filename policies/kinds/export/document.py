"""`export`: who of other trust domains may call a service, and which hosts take them in."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.language.document import Document
from policies.language.plain import Flaw, below, read_at
from policies.language.trust import SCHEME, check_member, check_trust_domain

_MOST_HOST = 64
"""Letters of a host's name, where it stands in certificates."""


class Export(Document, frozen=True, kw_only=True):
    """The document."""

    to: Annotated[
        tuple[str, ...],
        Meta(max_length=1000, description="Trust domains (us.shoal), or callers there (spiffe://us.shoal/svc/shop)"),
    ]
    gateways: Annotated[
        tuple[str, ...],
        Meta(max_length=64, description="Hosts whose agents take callers in; none: this level only narrows"),
    ] = ()

    def check(self) -> None:
        """Names, each of its sort."""
        for n, text in enumerate(self.to):
            read_at(below("$", "to", n), check_member if text.startswith(SCHEME) else check_trust_domain, text)
        for n, host in enumerate(self.gateways):
            if not 0 < len(host) <= _MOST_HOST or not host.isprintable() or any(c in host for c in "*:/ "):
                reason = f"{host[:80]!r} is no name of a host, such as gate-1 (its address is for who imports)"
                raise Flaw(below("$", "gateways", n), reason)
