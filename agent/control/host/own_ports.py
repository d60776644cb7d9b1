"""Where this agent and its like listen: no check, no registration and no record leads a request there.

Who could have the agent ask its own admin port would have its rights: it answers whoever is on its host. And a
request that is dialled to an agent's proxy as if to an instance goes in circles.

Laws
- Judged is what is connected to, never how it is written: an IPv4 address inside an IPv6 one, another spelling, any
  address of this host where a listener has them all.
- Ports are those that are really bound, wherever they come from.
- Asking costs nothing unless the port is one of ours.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain(address: str) -> str:
    """One spelling for each address that is connected to; what is no address stays as it is."""
    if ":" not in address:
        return address  # of IPv4 addresses there is one only: records have no other
    ip = _parsed(address)
    return address if ip is None else str(ip)


def _parsed(address: str) -> IP | None:
    try:
        ip = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def is_loopback(address: str) -> bool:
    """Whether an address means the host that it is used on."""
    ip = _parsed(address)
    return ip is not None and ip.is_loopback


def is_here(address: str) -> bool:
    """Whether this host has an address: told by binding to it."""
    ip = _parsed(address)
    if ip is None or ip.is_multicast:
        return False
    if ip.is_loopback or ip.is_unspecified:  # connecting to nowhere in particular is connecting to oneself
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        found = socket.getaddrinfo(str(ip), 0, family, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(found[0][4])
    except OSError:
        return False
    return True


def bound(sockets: Iterable[socket.socket]) -> list[Place]:
    """Where sockets listen; those in the file system are no places."""
    names = [sock.getsockname() for sock in sockets if sock.family in (socket.AF_INET, socket.AF_INET6)]
    return list(dict.fromkeys((str(name[0]), int(name[1])) for name in names))


class OwnPorts:
    """The listeners of this agent by name, and where the agents of the mesh are dialled."""

    def __init__(
        self, listeners: Iterable[tuple[str, Place]] = (), agents: Callable[[str, int], str] = lambda address, port: ""
    ) -> None:
        """`agents` names the host whose agent is dialled at a place (as `plain` spells it); empty: none is."""
        self._listeners = [(name, _parsed(address), port) for name, (address, port) in listeners]
        self._ports = frozenset(port for _, _, port in self._listeners)
        self._agents = agents

    def reached_by(self, address: str, port: int) -> str:
        """Which of this agent's listeners a connection reaches, for people; empty: none."""
        if port not in self._ports:
            return ""
        ip = _parsed(address)
        for name, at, own in self._listeners:
            if own == port and ip is not None and _reaches(ip, at):
                return f"this agent's own {name} listener"
        return ""

    def belongs(self, address: str, port: int) -> str:
        """As `reached_by`, and other agents' inbound listeners too: for what is dialled as an instance."""
        found = self.reached_by(address, port)
        if found:
            return found
        host = self._agents(plain(address), port)
        return f"where the agent on {host!r} is reached" if host else ""


def _reaches(ip: IP, at: IP | None) -> bool:
    """Whether connecting to an address arrives at a listener's."""
    if at is None:
        return False
    if ip == at:
        return True
    if ip.is_unspecified and at.is_loopback:
        return ip.version == at.version
    return at.is_unspecified and (at.version == 6 or ip.version == 4) and is_here(str(ip))
