"""What browsers are shown at the people's port, where the settings name it: a certificate that they believe.

Laws
- It is shown to who asks for one of the names that browsers call the agent by (SNI), and to nobody else: `shoal` and
  other agents name nobody, and are shown the agent's own, by which they know it.
- It changes nothing of who may ask: that is proven, or not, as before.
- Files that are another are read again. What cannot be read leaves what was shown before, and is told once; so it is
  when the mesh has other roots by then, and people by certificate come by another name meanwhile.
- Whoever renews it is no part of the mesh, and may fail unseen: its end is told with all else that the agent says of
  itself, also where nobody has connected (`as_state`).
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from agent.tls.words import words

ENDING: Final = 0.2
"""Of its life: when so much of it is left, there should have been another. Of 90 days those who renew them leave 30."""
ENDING_S: Final = 21 * 86_400.0
"""But no more than so long before its end."""
log = structlog.get_logger()
Mark: TypeAlias = tuple[tuple[int, int, int], ...]


class Standing(NamedTuple):
    """What there is of one, as its files are."""

    mark: Mark = ()
    begins_s: float = 0.0
    ends_s: float = 0.0
    """Unix time: the first of its chain that does; 0: it could not be read."""
    reason: str = ""
    """Why it is of no use; empty: it is."""


class WebCertificate:
    """Of one agent."""

    def __init__(self, certificate: Path, key: Path | None, names: Collection[str]) -> None:
        """`certificate`: of a chain in PEM; `key`: None where it stands in the same file. `names` in small letters."""
        self._paths = (certificate, certificate if key is None else key)
        self._names = frozenset(names)
        self._mark: Mark | None = None
        self._door: ssl.SSLContext | None = None
        self._shown: ssl.SSLContext | None = None
        self._standing: Standing | None = None

    def as_state(self, now_s: float) -> dict[str, Any]:
        """Where it is, when it ends, for how long it counts (s), whether there should be another, and why it is of no
        use. `now_s`: Unix time."""
        mark, reason = self._look()
        if self._standing is None or self._standing.mark != mark or reason:
            self._standing = Standing(mark, reason=reason) if reason else self._read_of(mark)
        begins_s, ends_s, why = self._standing[1:]
        left_s = ends_s - now_s
        ending = ends_s > 0 and left_s <= min(ENDING * (ends_s - begins_s), ENDING_S)
        if not why and now_s < begins_s:
            why = f"it is not valid before {datetime.fromtimestamp(begins_s, UTC):%Y-%m-%d %H:%M} UTC"
        ends = f"{datetime.fromtimestamp(ends_s, UTC):%Y-%m-%dT%H:%M:%SZ}" if ends_s else ""
        return {
            "path": str(self._paths[0]),
            "ends": ends,
            "left_s": round(left_s) if ends_s else None,
            "ending": ending,
            "reason": why,
        }

    def _read_of(self, mark: Mark) -> Standing:
        from cryptography import x509  # the 10 MB of it are for agents that have something to do with certificates

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._paths, password="")
            chain = x509.load_pem_x509_certificates(self._paths[0].read_bytes())
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            return Standing(mark, reason=words(error) if isinstance(error, OSError) else str(error))
        begins_s = max(each.not_valid_before_utc.timestamp() for each in chain)
        return Standing(mark, begins_s, min(each.not_valid_after_utc.timestamp() for each in chain))

    def _look(self) -> tuple[Mark, str]:
        """Which files they are, and why there are none."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError as error:
            return (), error.strerror or str(error)
        return tuple((each.st_mtime_ns, each.st_ino, each.st_size) for each in found), ""

    def show(self, door: ssl.SSLContext) -> None:
        """By a context that handshakes begin with, from now on."""
        self._read(door)
        shown = self._shown

        def asked(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            if shown is not None and name is not None and name.lower() in self._names:
                connection.context = shown

        door.sni_callback = asked

    def _read(self, door: ssl.SSLContext) -> None:
        mark, reason = self._look()
        if mark == self._mark and door is self._door:
            return
        self._mark, self._door = mark, door
        if mark:
            try:
                self._shown = self._made(door)
                return
            except (OSError, ValueError) as error:  # an SSLError is an OSError
                reason = str(error)
        log.error("the certificate for browsers cannot be used", certificate=str(self._paths[0]), reason=reason)

    def _made(self, door: ssl.SSLContext) -> ssl.SSLContext:
        """With its chain and key, and the roots of the door: OpenSSL judges a client by those of the context that is
        shown. Raises OSError and ValueError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = door.num_tickets
        context.verify_flags = door.verify_flags
        if roots := door.get_ca_certs(binary_form=True):
            context.load_verify_locations(cadata=b"".join(roots))
        context.verify_mode = door.verify_mode
        context.load_cert_chain(*self._paths, password="")
        return context
