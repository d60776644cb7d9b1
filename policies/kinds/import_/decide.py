# mypyc: interpreted, because it is made once for a plan
"""`import`: whom callers expect at the gateways, and where these are."""

from __future__ import annotations

from policies.kind import ANYWHERE, Scope
from policies.kinds.import_.document import Import, parse_gateway


class Compiled:
    """Of one service."""

    __slots__ = ("expected", "gateways", "remote_service")

    def __init__(self, document: Import) -> None:
        self.remote_service = document.remote_service
        self.expected = f"spiffe://{document.trust_domain}/svc/{document.remote_service}"
        """The SPIFFE id that a gateway has to prove."""
        self.gateways = {text: parse_gateway(text) for text in document.gateways}
        """Where each is, by what the document calls it."""


def compile(document: Import, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be used."""
    return Compiled(document)
