"""Where an agent listens: outbound and inbound for its workers, the admin port, and the socket of this host's users."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from urllib.parse import quote

from agent.control.host import local_socket
from agent.control.host.own_ports import Place, bound
from agent.control.host.sockets import Handover, is_ours, kept, listening
from agent.settings.address import parse_listen
from agent.settings.document import Settings


class Listeners:
    """Every listening socket of an agent."""

    def __init__(self, settings: Settings, handover: Handover) -> None:
        """Those that were handed over, and others where the settings name other addresses. Raises OSError and
        SettingsError."""
        count, moved = settings.worker_count, bool(handover.boot)
        self.outbound = listening(parse_listen(settings.outbound.listen), handover.outbound, count, moved=moved)
        self.inbound = listening(parse_listen(settings.inbound.listen), handover.inbound, count, moved=moved)
        (self.admin,) = listening(parse_listen(settings.admin.listen), handover.admin, 1, moved=moved)
        self.metrics = _for_metrics(settings, handover, moved=moved)
        self.local = local_socket.opened(settings, handover.local)
        self._settings = settings

    @property
    def stays(self) -> bool:
        """Whether other agents' connections wait in a socket of systemd's while nobody runs here."""
        return not any(map(is_ours, self.inbound))

    @property
    def inbound_port(self) -> int:
        """The one that other agents dial."""
        port: int = self._settings.inbound.advertise_port or self.inbound[0].getsockname()[1]
        return port

    def places(self, address: str) -> list[tuple[str, Place]]:
        """By name; with the inbound port that others dial at this agent's address, where that is another."""
        sockets: tuple[tuple[str, Sequence[socket.socket]], ...] = (
            ("outbound", self.outbound),
            ("inbound", self.inbound),
            ("admin", [self.admin]),
            ("metrics", self.metrics),
        )
        found = [(name, place) for name, each in sockets for place in bound(each)]
        mapped = self._settings.inbound.advertise_port
        return [*found, ("inbound", (address, mapped))] if mapped else found

    def proxy_url(self, service: str, token: str) -> str:
        """The outbound listener, as a service names it that proves who it is."""
        host, port = self.outbound[0].getsockname()[:2]
        host = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104
        return f"http://{quote(service, safe='')}:{quote(token, safe='')}@{host}:{port}"

    def hand_over(self, settings: Settings) -> Handover:
        """What an agent of these settings listens with. Raises OSError and SettingsError, and then nothing has
        changed."""
        mine = (
            (settings.outbound.listen, self.outbound),
            (settings.inbound.listen, self.inbound),
            (settings.admin.listen, [self.admin]),
            *(((settings.metrics.listen, self.metrics),) if settings.metrics.listen else ()),
        )
        own = self.local if self.local is not None and self.local.path == settings.socket_path else None
        of_users = own or local_socket.opened(settings, None)
        try:
            outbound, inbound, admin, *metrics = kept([(parse_listen(listen), sockets) for listen, sockets in mine])
        except OSError:
            if of_users is not None and of_users is not own:
                of_users.close()
            raise
        left = None
        if of_users is not None:
            left = os.dup(of_users.sock.fileno())
            os.set_inheritable(left, True)
            if of_users is not own:
                of_users.leave()
        return Handover(outbound=outbound, inbound=inbound, admin=admin, metrics=sum(metrics, ()), local=left)

    def close(self, *, left: bool) -> None:
        """Listen no more. `left`: a successor has the socket of users."""
        for sock in (*self.outbound, *self.inbound, self.admin, *self.metrics):
            sock.close()
        if self.local is not None:
            if left:
                self.local.leave()
            else:
                self.local.close()


def _for_metrics(settings: Settings, handover: Handover, *, moved: bool) -> list[socket.socket]:
    """One at most; what was handed over and is not wanted is closed."""
    if settings.metrics.listen:
        return listening(parse_listen(settings.metrics.listen), handover.metrics, 1, moved=moved)
    for fd in handover.metrics:
        os.close(fd)
    return []
