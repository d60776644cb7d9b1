"""`tls`: whether a hop to or from an agent of another host is TLS, and what instances speak."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.plain import Flaw

MAX_CA: int = 32 * 1024


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Instances, as whoever hands them requests finds them."""

    speaks: Annotated[
        Literal["plain", "tls"],
        Meta(description="tls: all of them do; plain: those without an agent are sent plain text, and that is meant"),
    ]
    name: Annotated[str, Meta(max_length=253, description="Host name in their certificate, and of SNI")] = ""
    ca: Annotated[
        str, Meta(max_length=MAX_CA, description="Certificates (PEM) that theirs lead to; empty: those of the system")
    ] = ""
    client_certificate: Annotated[
        bool, Meta(description="Whether they are shown the certificate that the host that dials has for this service")
    ] = False


class TlsPolicy(Document, frozen=True, kw_only=True):
    """The document."""

    mtls: Annotated[
        Literal["off", "permissive", "strict"],
        Meta(description="off: plain text; permissive: TLS to whoever has it; strict: TLS, or no request"),
    ]
    origin: Annotated[Origin | None, Meta(description="What instances speak")] = None

    def check(self) -> None:
        """An origin that can be verified."""
        origin = self.origin
        if origin is None:
            return
        if origin.speaks == "plain":
            for name in ("name", "ca", "client_certificate"):
                if getattr(origin, name):
                    raise Flaw(f"$.origin.{name}", 'only with "speaks": "tls"; plain text verifies nobody')
            return
        _check_name(origin.name)
        if origin.ca:
            _check_ca(origin.ca)


def _check_name(name: str) -> None:
    labels = name.removesuffix(".").split(".")
    if not name:
        raise Flaw("$.origin.name", "missing: the host name that their certificate has to be for, such as db.internal")
    if not all(0 < len(label) < 64 and label.isascii() and label.replace("-", "").isalnum() for label in labels):
        raise Flaw("$.origin.name", f"{name[:80]!r} is no host name, such as db.internal")


def _check_ca(pem: str) -> None:
    from cryptography.x509 import load_pem_x509_certificates

    if "PRIVATE KEY" in pem:
        raise Flaw("$.origin.ca", "has a private key in it, which is nobody else's business: make a new one")
    try:
        load_pem_x509_certificates(pem.encode())
    except ValueError:
        reason = "no certificates in PEM: lines from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----"
        raise Flaw("$.origin.ca", reason) from None
