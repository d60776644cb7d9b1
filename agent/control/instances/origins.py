"""Which instances of this host speak TLS themselves, for those who check them: as their `tls` documents say."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from agent.frames import ClientCertificate
from agent.tls.origins import NotUsable, origin_context, sni_of
from policies.kinds.tls.document import Origin


class Tls(NamedTuple):
    """How instances of a service are spoken to."""

    context: ssl.SSLContext
    name: str
    """Whom they have to be."""


class Documents(Protocol):
    """What is in force."""

    def origin(self, service: str) -> Origin | None:
        """What instances of a service speak themselves, as far as documents say so."""
        ...


class Shown(Protocol):
    """What this host has to show."""

    @property
    def found(self) -> Mapping[str, ClientCertificate]:
        """By the service that is called."""
        ...


class OriginsHere:
    """Of one agent. What a document comes to is made once, until it or what is shown is another."""

    def __init__(self, documents: Documents, shown: Shown) -> None:
        self._documents = documents
        self._shown = shown
        self._made: dict[str, tuple[Origin, ClientCertificate | None, Tls | str]] = {}

    def of(self, service: str) -> Tls | str | None:
        """How its instances are spoken to; why they cannot be; None: in plain text."""
        origin = self._documents.origin(service)
        if origin is None or origin.speaks != "tls":
            self._made.pop(service, None)
            return None
        shown = self._shown.found.get(service) if origin.client_certificate else None
        made = self._made.get(service)
        if made is None or made[0] != origin or made[1] != shown:
            made = self._made[service] = (origin, shown, _make(service, origin, shown))
        return made[2]


class _Nowhere:
    def of(self, service: str) -> Tls | str | None:
        return None


NOWHERE: Final = _Nowhere()


def _make(service: str, origin: Origin, shown: ClientCertificate | None) -> Tls | str:
    if origin.client_certificate and shown is None:
        return f"this host has no client certificate for {service} ([origins] in its settings)"
    if shown is not None and shown.reason:
        return shown.reason
    try:
        return Tls(origin_context(origin, Path(shown.path) if shown is not None else None), sni_of(origin))
    except NotUsable as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"what its certificate has to lead to cannot be read ($.origin.ca): {error}"
