"""What stands in etcd about identity, beside bundles, grants and revocations: frozen records, JSON at rest.

Everything here is public: keys and tokens never leave their host; of a token etcd has the digest.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from registry.records import Record

Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Pem: TypeAlias = Annotated[str, Meta(max_length=32 * 1024)]
Role: TypeAlias = Literal["view", "tap", "operate"]


class Holds(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`hosts/<host>/trust`: what a host's agent holds, on its lease. What a newer one tells besides is ignored."""

    trust_domain: str
    bundle: int
    """Sequence of the trust domain's bundle that is in force there."""
    agent: Moment | None = None
    """Until when it holds an SVID of its own; None: it holds none."""
    services: dict[str, Moment] = msgspec.field(default_factory=dict)
    """Until when it holds which services' SVIDs."""
    roots: list[str] = msgspec.field(default_factory=list)
    """SHA-256 (hex) of the roots that its SVIDs lead to: a root may leave the bundle when no living host names it."""


class Request(Record, frozen=True, kw_only=True):
    """`requests/<host>/<name>`: a key that wants a certificate."""

    csr: Pem
    at: Moment


class Signing(Record, frozen=True, kw_only=True):
    """`signing/<host>/<name>`: an issuer has taken a request, on its lease."""

    issuer: str
    revision: int
    """mod_revision of the request."""
    at: Moment


class Signed(Record, frozen=True, kw_only=True):
    """`signed/<host>/<name>`: what came of a request: a certificate, or why there is none."""

    chain: Pem = ""
    """PEM: the SVID, and the intermediates that lead to a root; empty: refused."""
    refused: str = ""
    """Why there is none, and what would allow it."""
    request: int = 0
    """mod_revision of the request that it answers."""
    issuer: str = ""
    at: Moment


class Host(Record, frozen=True, kw_only=True):
    """`identity/hosts/<host>`: an operator has added a host to the mesh."""

    description: str = ""
    renew_before: Moment | None = None
    """An operator wants other certificates: the host's agent asks anew at once for each SVID that begins earlier, its
    own too, and goes on with what it has until the new one is there. Once for each value: since certificates begin some
    minutes before they are made, the new one may begin earlier as well. Nobody refuses anything by it: that is what
    revocations are for. None: no wish."""


class IssuerRecord(Record, frozen=True, kw_only=True):
    """`identity/issuers/<host>`: an operator lets a host issue; with its intermediate once that is signed."""

    chain: Pem = ""
    """PEM: the intermediate, and what leads from it to a root, without that. Empty: it is to ask for one."""
    lifetime: str = ""
    """Of the SVIDs that it signs, such as 24h or 1h; empty: 24 hours."""
    description: str = ""


class Person(Record, frozen=True, kw_only=True):
    """`identity/people/<name>`: an operator lets somebody log in."""

    role: Role = "view"
    """What agents let him ask them for over the network: to look, to look into live requests too, or everything that
    their socket has."""
    description: str = ""
    by: str = ""


class Join(Record, frozen=True, kw_only=True):
    """`identity/joins/<digest>`: a token that lets one host in, or one person, once."""

    host: str = ""
    person: str = ""
    until: Moment
    by: str = ""
