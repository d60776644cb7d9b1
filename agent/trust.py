# mypyc: interpreted, because control asks it too, and a request costs it one look-up
"""Who is believed to be an agent: one predicate, `Agents.from_agent`, that control and its workers ask alike.

Laws
- Words of agents (`agent.proxy.messages.words`) and questions to agents are believed from where an agent is registered
  (`agents/<host>` in etcd) or from ranges that this host's settings name, and never for anything that is said in them.
- An agent does not call itself, so its own address is nobody's, unless other agents are registered there too.
- Whoever may send from an agent's address counts as that agent: every process of its host, and all behind the same
  NAT. Who has shown a certificate is judged by that, and not asked about here (`agent.proxy.peer`).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_REMEMBERED: Final = 4096
_IP_BIND_ADDRESS_NO_PORT: Final = 24
"""linux/in.h: the port is chosen when connecting, so that it is only taken towards that one address."""


@lru_cache(maxsize=4096)
def canonical(address: str) -> str:
    """An IP address in the one spelling that is compared; IPv4 inside IPv6 (`::ffff:10.0.0.5`) is IPv4.

    What is no address comes back as it is: it equals no peer.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def parse_ranges(ranges: Iterable[str]) -> list[Network]:
    """`10.8.0.0/16`, or one address. Raises ValueError that says what would be right."""
    found: list[Network] = []
    for text in ranges:
        try:
            found.append(ipaddress.ip_network(text.strip()))
        except ValueError as error:
            reason = "host bits set" if "host bits" in str(error) else "no range of addresses"
            raise ValueError(f"{text[:80]!r}: {reason}; such as 10.8.0.0/16 or 2001:db8::7") from None
    return found


class Agents:
    """The agents that live, by where they are registered, and the ranges that are believed besides."""

    __slots__ = ("_addresses", "_hosts", "_known", "_own", "_ranges")

    def __init__(self, ranges: Iterable[str] = ()) -> None:
        """Raises ValueError for what is no range."""
        self._addresses: frozenset[str] = frozenset()
        self._hosts: dict[str, str] = {}
        """By address; empty where several are registered."""
        self._own = ""
        self._known: dict[str, bool] = {}
        self._ranges = parse_ranges(ranges)

    def believe(self, ranges: Iterable[str]) -> None:
        """The ranges, anew. Raises ValueError for what is no range."""
        self._ranges = parse_ranges(ranges)
        self._known = {}

    def learn(self, addresses: Mapping[str, str], host: str) -> None:
        """Every agent's address by its host, and which host this is."""
        self._addresses = frozenset(canonical(address) for name, address in addresses.items() if name != host)
        self._own = canonical(addresses.get(host, ""))
        self._hosts = {}
        for name, address in addresses.items():
            if name != host:
                where = canonical(address)
                self._hosts[where] = "" if where in self._hosts else name
        self._known = {}

    @property
    def own(self) -> str:
        """Where this host's agent is registered; empty: that is not known yet."""
        return self._own

    def from_agent(self, peer: str, registered: str | None = None) -> bool:
        """Whether what comes from an address is an agent's word; with `registered`, that of the agent there."""
        if registered is not None:
            return canonical(peer) == canonical(registered) or self._in_ranges(peer)
        known = self._known.get(peer)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[peer] = canonical(peer) in self._addresses or self._in_ranges(peer)
        return known

    def host_at(self, peer: str) -> str:
        """The host whose agent is registered at an address; empty: none, or several."""
        return self._hosts.get(peer) or self._hosts.get(canonical(peer), "")

    def _in_ranges(self, peer: str) -> bool:
        if not self._ranges:
            return False
        try:
            address = ipaddress.ip_address(canonical(peer).partition("%")[0])
        except ValueError:
            return False
        return any(address.version == network.version and address in network for network in self._ranges)

    def source(self, target: str) -> str:
        """Where a connection to another agent at `target` has to come from to be believed there; empty: from anywhere
        that the system chooses."""
        return source_for(self._own, target)


def source_for(own: str, target: str) -> str:
    """The registered address `own`, if connections to `target` can come from it at all; else empty."""
    fits = (":" in own) == (":" in target) and is_loopback(own) == is_loopback(target)
    return own if fits else ""


def bind_source(sock: socket.socket, source: str) -> None:
    """Have a connection leave from an address; one that is none of this host's, as behind a NAT, is passed over."""
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    except OSError:
        pass


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Whether an address is one that only this host reaches."""
    return address.startswith("127.") or address == "::1"


def is_here(address: str) -> bool:
    """Whether an address is one of this host's: behind a NAT the registered one is not."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
