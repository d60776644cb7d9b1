"""Where programs of this host listen, as the kernel says it, and whether two processes have the same network.

Laws
- Asked are listening sockets only (sock_diag), so that a host with a hundred thousand connections costs no more.
- Anybody may ask, and hears of every user's sockets: of the network namespace that he is in.
- What cannot be asked is empty or 0. Who asks says nothing then; he must not say that nothing listens.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, asm-generic/socket.h
_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_DUMP: Final = 0x301
"""A request for all there are."""
_DONE: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
_ASKED: Final = struct.Struct("=BBBBI48x")
_LISTENS: Final = 1 << 10
_PORT_AT: Final = 4
_ADDRESS_AT: Final = 8
_MESSAGE_BYTES: Final = 72
_ONLY_6: Final = 11
_SO_NETNS_COOKIE: Final = 71
_MOST_BYTES: Final = 1 << 16


class Listener(NamedTuple):
    """One socket that listens for TCP."""

    address: IP
    port: int
    only_6: bool = False
    """Of one for IPv6 addresses: it takes no connection by IPv4."""

    def reached_at(self, ip: IP) -> bool:
        """Whether a connection to an address of this host arrives here."""
        own = _plain(self.address)
        if not own.is_unspecified:
            return own == _plain(ip)
        return own.version == _plain(ip).version or (own.version == 6 and not self.only_6)

    @property
    def by_strangers(self) -> bool:
        """Whether it takes connections at another address than loopback's."""
        return not _plain(self.address).is_loopback

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def listeners() -> tuple[Listener, ...]:
    """All of this network namespace; none where the kernel cannot be asked."""
    try:
        return tuple(found for family in (socket.AF_INET, socket.AF_INET6) for found in _dump(family))
    except OSError:
        return ()


def at(port: int, among: Iterable[Listener] | None = None) -> list[Listener]:
    """Those on a port."""
    return [one for one in (listeners() if among is None else among) if one.port == port]


def network() -> int:
    """The number of the network namespace that we are in, the same for all in it; 0: the kernel does not say."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
    except OSError:
        return 0


def _plain(ip: IP) -> IP:
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


def _dump(family: int) -> Iterator[Listener]:
    """Raises OSError."""
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTENS)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(1)
        kernel.sendto(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _DUMP, 0, 0) + asked, (0, 0))
        while True:
            told, sender = kernel.recvfrom(_MOST_BYTES)
            if sender[0]:
                continue  # some process that speaks to ours; the kernel's number is 0
            for kind, body in _messages(told):
                if kind == _DONE:
                    return
                if kind != _BY_FAMILY or len(body) < _MESSAGE_BYTES:
                    raise OSError("the kernel cannot be asked for sockets")
                yield _listener(family, body)


def _messages(told: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(told):
        length, kind, _, _, _ = _HEADER.unpack_from(told, offset)
        yield kind, told[offset + _HEADER.size : offset + max(length, _HEADER.size)]
        offset += max((length + 3) & ~3, _HEADER.size)


def _listener(family: int, body: bytes) -> Listener:
    (port,) = struct.unpack_from("!H", body, _PORT_AT)
    size = 4 if family == socket.AF_INET else 16
    address = ipaddress.ip_address(body[_ADDRESS_AT : _ADDRESS_AT + size])
    return Listener(address, port, family == socket.AF_INET6 and _only_6(body[_MESSAGE_BYTES:]))


def _only_6(attributes: bytes) -> bool:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _ONLY_6 and length > 4:
            return bool(attributes[offset + 4])
        offset += max((length + 3) & ~3, 4)
    return False
