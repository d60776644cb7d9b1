# mypyc: interpreted, because it is asked when a document or a file is another one, and no request waits for that
"""Instances that speak TLS themselves (`origin` of `tls`), as this worker reaches them: what is verified, and shown.

Laws
- It is ordinary TLS: OpenSSL verifies the chain, the time and the host name. No trust domain is needed for it.
- A client certificate that cannot be used replaces none that is in use; without any nothing is dialled.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.frames import ClientCertificate
from agent.identity.spiffe import SpiffeId
from agent.identity.verdict import Identity
from agent.proxy.engine.credentials import Way
from agent.tls.origins import NotUsable, origin_context, sni_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.kinds.tls.document import Origin

_MOST_BARE: Final = 64
_FOREVER: Final = float("inf")
_VERIFIED: Final = Identity(SpiffeId("", ""), "", 0, _FOREVER, ())
"""Who is there, OpenSSL has seen; he has no name in the mesh."""


class OriginWay(Way):
    """To the instances of one service."""

    def __init__(
        self, context: ssl.SSLContext, sni: str, mark: str, service: str, note: Callable[[str, str], None]
    ) -> None:
        super().__init__(context, sni, _judge, _FOREVER)
        self.mark = mark
        """Of what is shown; empty: nothing is."""
        self._service = service
        self._note = note

    def refused(self, address: str, reason: str) -> None:
        """A handshake came to nothing."""
        self._note(f"{self._service} at {address}", reason)


class Origins:
    """Of one worker."""

    def __init__(self, note: Callable[[str, str], None]) -> None:
        """`note` is told of handshakes that came to nothing: whose, and why."""
        self._note = note
        self._shown: Mapping[str, ClientCertificate] = {}
        self._bare: dict[str, ssl.SSLContext] = {}
        """Where nothing is shown many services may share one: by the certificates that theirs lead to."""

    def take(self, shown: Mapping[str, ClientCertificate]) -> bool:
        """What there is to show from now on, by service. Returns whether that is something else than before."""
        changed = self._shown != shown
        self._shown = shown
        return changed

    def follows(self, way: OriginWay, service: str, origin: Origin) -> OriginWay | None:
        """What takes the place of a way that was made for this origin: itself, as long as it shows what it should, and
        where nothing better can be used; None: there is nothing to show any more."""
        shown = self._shown.get(service)
        if not origin.client_certificate or (shown is not None and shown.mark == way.mark):
            return way
        if shown is None:
            return None
        found = self.way(service, origin)
        return way if isinstance(found, str) else found

    def way(self, service: str, origin: Origin) -> OriginWay | str:
        """How instances of a service are reached; or why they are not."""
        shown = self._shown.get(service) if origin.client_certificate else None
        if origin.client_certificate and shown is None:
            return f"it wants a client certificate, and this host has none for {service} ([origins] in its settings)"
        if shown is not None and shown.reason:
            return f"it wants a client certificate: {shown.reason}"
        try:
            context = self._context(origin, shown)
        except NotUsable as error:
            return f"it wants a client certificate: {error}"
        except (OSError, ValueError) as error:
            return f"what its certificate has to lead to cannot be read ($.origin.ca): {error}"
        return OriginWay(context, sni_of(origin), shown.mark if shown is not None else "", service, self._note)

    def _context(self, origin: Origin, shown: ClientCertificate | None) -> ssl.SSLContext:
        """Raises NotUsable, and OSError or ValueError for roots."""
        if shown is not None:
            return origin_context(origin, Path(shown.path))
        if origin.ca not in self._bare:
            if len(self._bare) >= _MOST_BARE:
                self._bare.clear()
            self._bare[origin.ca] = origin_context(origin, None)
        return self._bare[origin.ca]


def _judge(chain: list[bytes], context: ssl.SSLContext) -> Identity:
    return _VERIFIED
