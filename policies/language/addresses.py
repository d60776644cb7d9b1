# mypyc: compiled
"""IP addresses as documents, settings and proxies write them: one reading, and sets of ranges.

Laws
- An IPv4 address inside an IPv6 one (`::ffff:10.0.0.7`) is the IPv4 address. A zone (`fe80::1%eth0`) is no part of one.
- What is no address is in no set.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

MAX_RANGES: Final = 1000
_BITS: Final = {4: 32, 6: 128}


@lru_cache(maxsize=4096)
def parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """With or without a port, as some proxies write it: `192.0.2.7:4711`, `[2001:db8::7]:4711`; None: it is none."""
    bare = text[1:].partition("]")[0] if text[:1] == "[" else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        found = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def check_range(text: str) -> None:
    """Raises ValueError that says what would be right."""
    _network(text)


def _network(text: str) -> tuple[int, int, int]:
    """Version, bits of the prefix, and these bits."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        reason = "has bits set behind its prefix" if "host bits" in str(error) else "is no range of addresses"
        raise ValueError(f"{text[:80]!r} {reason}; such as 10.8.0.0/16, 192.0.2.7 or 2001:db8::/32") from None
    if found.version == 6 and int(found.network_address) >> 32 == 0xFFFF and found.prefixlen >= 96:
        raise ValueError(f"{text[:80]!r}: addresses of IPv4 are written as such, 10.8.0.0/16")
    bits = found.prefixlen
    return found.version, bits, int(found.network_address) >> (_BITS[found.version] - bits)


class Ranges:
    """A set of addresses; looked up by the lengths of its prefixes, however many there are of each."""

    __slots__ = ("_prefixes",)

    def __init__(self, ranges: Iterable[str] = ()) -> None:
        """`10.8.0.0/16`, or one address each. Raises ValueError."""
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for text in ranges:
            version, bits, prefix = _network(text.strip())
            self._prefixes.setdefault((version, _BITS[version] - bits), set()).add(prefix)

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return not self._prefixes

    def has(self, address: str) -> bool:
        """Whether an address is in it."""
        found = parsed(address)
        if found is None:
            return False
        version, number = found.version, int(found)
        for (of, shift), prefixes in self._prefixes.items():  # noqa: SIM110 - compiled, a loop costs no generator
            if of == version and number >> shift in prefixes:
                return True
        return False
