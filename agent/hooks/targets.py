"""Which addresses a hook may call: whoever may only write policies must not reach the inside of the network through us.

Laws
- Judged are addresses, never names: each one that a name resolved to, and again the one that was connected to, so that
  an answer of the DNS that changes in between (rebinding) helps nobody.
- Without a word in the agent's own settings, only addresses of the public internet may be called.
- Redirects are never followed: where they lead was not judged.
- An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, Teredo) is judged as what it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEVER: Final = (
    ("unspecified", "0.0.0.0/8"),
    ("unspecified", "::/128"),
    ("multicast", "224.0.0.0/4"),
    ("multicast", "ff00::/8"),
    ("broadcast", "255.255.255.255/32"),
)
_INSIDE: Final = (
    ("loopback", "127.0.0.0/8"),
    ("loopback", "::1/128"),
    ("link-local", "169.254.0.0/16"),
    ("link-local", "fe80::/10"),
    ("private", "10.0.0.0/8"),
    ("private", "172.16.0.0/12"),
    ("private", "192.168.0.0/16"),
    ("private", "fc00::/7"),
    ("private", "fec0::/10"),
    ("shared by a carrier", "100.64.0.0/10"),
    ("for protocols", "192.0.0.0/24"),
    ("for benchmarks", "198.18.0.0/15"),
    ("reserved", "240.0.0.0/4"),
    ("for translation", "64:ff9b:1::/48"),
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")


def _ranges(table: Iterable[tuple[str, str]]) -> tuple[tuple[str, Network], ...]:
    return tuple((name, ipaddress.ip_network(text)) for name, text in table)


_NEVER_RANGES: Final = _ranges(_NEVER)
_INSIDE_RANGES: Final = _ranges(_INSIDE)


class Targets:
    """What the agent's settings allow: ranges and host names."""

    __slots__ = ("_hosts", "_networks", "_setting")

    def __init__(self, allow: Iterable[str] = (), setting: str = "hooks.allow") -> None:
        """`setting`: where it is written. Raises ValueError that says which entry is none."""
        self._setting = setting
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for entry in allow:
            text = entry.strip().lower()
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError as error:
                if "/" in text or ":" in text or not _HOST.match(text) or _looks_numeric(text):
                    reason = "host bits set" if "host bits" in str(error) else "no range and no host name"
                    raise ValueError(f"{entry[:80]!r}: {reason}; such as 10.1.0.0/16 or hooks.example.com") from None
                self._hosts.add(text)

    def refused(self, host: str, address: str, *, named: bool = False) -> str | None:
        """Why an address of a host may not be called; None when it may. For all resolved ones and the connected one.
        `named`: only what the settings name may, and the public internet is not enough."""
        try:
            judged = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            return f"{address[:80]!r} is no address"
        name = _range_of(judged, _NEVER_RANGES)
        if name is not None:
            return f"{address} is {name}"
        if self._allows(host, judged):
            return None
        name = _range_of(judged, _INSIDE_RANGES)
        if name is None and not judged.is_global:
            name = "not of the public internet"
        if name is None and named:
            name = "not named"
        if name is None:
            return None
        which = address if host.strip("[]") == address else f"{host[:80]} is {address}, which"
        return f"{which} is {name}; the agent's settings may allow it ({self._setting})"

    def _allows(self, host: str, address: Address) -> bool:
        host = host.lower().rstrip(".")
        if any(address.version == network.version and address in network for network in self._networks):
            return True
        parents = host.split(".")
        return host in self._hosts or any("*." + ".".join(parents[n:]) in self._hosts for n in range(1, len(parents)))


def _range_of(address: Address, ranges: Iterable[tuple[str, Network]]) -> str | None:
    return next((name for name, network in ranges if address.version == network.version and address in network), None)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that is inside, if there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    inside = address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF)
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if inside else address


def _looks_numeric(text: str) -> bool:
    """2130706433, 0x7f.1 and 127.1 are addresses to some resolvers: no names to allow."""
    return re.fullmatch(r"0x[0-9a-f.x]*|[0-9.]+", text) is not None
