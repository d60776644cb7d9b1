"""Where to listen, as settings write it."""

from __future__ import annotations

import socket
from typing import NamedTuple


class Address(NamedTuple):
    """Where to listen. Port 0: one that the system picks."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Address:
    """`127.0.0.1:15001`, `[::1]:15001`. Raises ValueError that says what would be right."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    right = f"{text!r} is nowhere to listen; write an address and a port, such as 127.0.0.1:15001 or [::1]:15001"
    if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(right)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return Address(host, int(port))
    raise ValueError(right)
