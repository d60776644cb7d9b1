"""`import`: a service of another trust domain, under a name of ours, by way of its gateways."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Meta

from policies.language.document import Document
from policies.language.names import parse_service
from policies.language.plain import Flaw, below, read_at
from policies.language.trust import check_trust_domain


class Import(Document, frozen=True, kw_only=True):
    """The document."""

    trust_domain: Annotated[str, Meta(description="Of the mesh that exports it; its bundle is identity/trust/<it>")]
    remote_service: Annotated[str, Meta(description="What the service is called there")]
    gateways: Annotated[
        tuple[str, ...],
        Meta(min_length=1, max_length=64, description="Where agents there take it in: addresses with ports"),
    ]

    def check(self) -> None:
        """One service, a name that can be proven, and addresses."""
        if "*" in self.service:
            raise Flaw("$.service", f"{self.service!r} is a pattern, and an import makes one service, such as pets.eu")
        read_at("$.trust_domain", check_trust_domain, self.trust_domain)
        if read_at("$.remote_service", parse_service, self.remote_service) != self.remote_service:
            raise Flaw("$.remote_service", f"spell it {parse_service(self.remote_service)!r}, as certificates do")
        known: set[tuple[str, int]] = set()
        for n, text in enumerate(self.gateways):
            place = read_at(below("$", "gateways", n), parse_gateway, text)
            if place in known:
                raise Flaw(below("$", "gateways", n), f"{text!r} is named twice")
            known.add(place)


def parse_gateway(text: str) -> tuple[str, int]:
    """Address and port. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not colon or address is None or bracketed != (address.version == 6) or not 0 < number < 65536:
        raise ValueError(f"{text[:80]!r} is no address with a port, such as 203.0.113.10:15006 or [2001:db8::7]:15006")
    return str(address), number
