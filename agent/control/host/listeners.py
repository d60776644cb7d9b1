"""Where an agent listens: outbound and inbound for its workers, what callers have of their own, the admin port, and the
socket of this host's users."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from agent.control.host import local_socket
from agent.control.host.local_socket import LocalSocket
from agent.control.host.own_ports import Place, bound
from agent.control.host.sockets import BACKLOG, Handover, is_ours, kept, listening
from agent.settings.address import parse_listen
from agent.settings.document import Settings
from agent.settings.file import SettingsError
from policies.language.names import parse_service


class CallerListener(NamedTuple):
    """Where programs of this host call that send no credentials."""

    service: str
    """In whose name; empty: by which user it is."""
    listen: str
    """A path, or an address and port, as the settings write it."""
    sock: socket.socket
    at: LocalSocket | None
    """Where it stands, if that is a path."""


class CallerListeners:
    """All of them."""

    def __init__(self, settings: Settings, handed: Mapping[str, int]) -> None:
        """`handed`: of the process before, by `listen`. Raises OSError and SettingsError."""
        self.all: list[CallerListener] = []
        self._handed: frozenset[str] = frozenset()
        left = dict(handed)
        for service, listen in _wanted(settings):
            self.all.append(_opened(service, listen, left.pop(listen, None)))
        for fd in left.values():
            os.close(fd)

    @property
    def sockets(self) -> list[tuple[str, socket.socket]]:
        """For the workers, which share them; with whose they are."""
        return [(each.service, each.sock) for each in self.all]

    def hand_over(self, settings: Settings) -> dict[str, int]:
        """What an agent of these settings listens with, by `listen`. Raises OSError and SettingsError, and then nothing
        has changed."""
        found: dict[str, int] = {}
        try:
            for service, listen in _wanted(settings):
                have = next((each for each in self.all if each.listen == listen), None)
                made = have or _opened(service, listen, None)
                found[listen] = os.dup(made.sock.fileno())
                os.set_inheritable(found[listen], True)
                if have is None:
                    made.sock.close()
        except BaseException:
            for fd in found.values():
                os.close(fd)
            raise
        self._handed = frozenset(found)
        return found

    def close(self, *, left: bool) -> None:
        """Listen no more. `left`: a successor has what was handed over."""
        for each in self.all:
            if each.at is None or (left and each.listen in self._handed):
                each.sock.close()
            else:
                each.at.close()


def _wanted(settings: Settings) -> list[tuple[str, str]]:
    """Service and place of each."""
    of_users = [("", settings.outbound.socket)] if settings.outbound.socket else []
    return [*of_users, *((parse_service(each.service), each.listen) for each in settings.callers)]


def _opened(service: str, listen: str, inherited: int | None) -> CallerListener:
    if listen.startswith("/"):
        at = local_socket.opened_at(Path(listen), "0666", "", inherited, BACKLOG)
        return CallerListener(service, listen, at.sock, at)
    (sock,) = listening(parse_listen(listen), () if inherited is None else (inherited,), 1, moved=inherited is not None)
    return CallerListener(service, listen, sock, None)


class Listeners:
    """Every listening socket of an agent."""

    def __init__(self, settings: Settings, handover: Handover) -> None:
        """Those that were handed over, and others where the settings name other addresses. Raises OSError and
        SettingsError."""
        count, moved = settings.worker_count, bool(handover.boot)
        self.outbound = listening(parse_listen(settings.outbound.listen), handover.outbound, count, moved=moved)
        self.inbound = listening(parse_listen(settings.inbound.listen), handover.inbound, count, moved=moved)
        (self.admin,) = listening(parse_listen(settings.admin.listen), handover.admin, 1, moved=moved)
        self.metrics = _if_wanted(settings.metrics.listen, handover.metrics, moved=moved)
        self.people = _if_wanted(settings.people.listen, handover.people, moved=moved)
        self.local = local_socket.opened(settings, handover.local)
        self.callers = CallerListeners(settings, handover.callers)
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
            ("people's", self.people),
            ("callers'", [each.sock for each in self.callers.all]),
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
        mine = {
            "outbound": (settings.outbound.listen, self.outbound),
            "inbound": (settings.inbound.listen, self.inbound),
            "admin": (settings.admin.listen, [self.admin]),
            "metrics": (settings.metrics.listen, self.metrics),
            "people": (settings.people.listen, self.people),
        }
        wanted = {name: (parse_listen(listen), sockets) for name, (listen, sockets) in mine.items() if listen}
        own = self.local if self.local is not None and self.local.path == settings.socket_path else None
        of_users = own or local_socket.opened(settings, None)
        try:
            left = dict(zip(wanted, kept(list(wanted.values())), strict=True))
            callers = self.callers.hand_over(settings)
        except (OSError, SettingsError):
            if of_users is not None and of_users is not own:
                of_users.close()
            raise
        local = None
        if of_users is not None:
            local = os.dup(of_users.sock.fileno())
            os.set_inheritable(local, True)
            if of_users is not own:
                of_users.leave()
        return Handover(
            outbound=left["outbound"],
            inbound=left["inbound"],
            admin=left["admin"],
            metrics=left.get("metrics", ()),
            people=left.get("people", ()),
            local=local,
            callers=callers,
        )

    def close(self, *, left: bool) -> None:
        """Listen no more. `left`: a successor has the socket of users."""
        for sock in (*self.outbound, *self.inbound, self.admin, *self.metrics, *self.people):
            sock.close()
        self.callers.close(left=left)
        if self.local is not None:
            if left:
                self.local.leave()
            else:
                self.local.close()


def _if_wanted(listen: str, handed: Sequence[int], *, moved: bool) -> list[socket.socket]:
    """One at most; what was handed over and is not wanted is closed."""
    if listen:
        return listening(parse_listen(listen), handed, 1, moved=moved)
    for fd in handed:
        os.close(fd)
    return []
