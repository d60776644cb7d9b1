# mypyc: compiled
"""Whose request it is, by where it came from: what a limit for each client counts by.

Laws
- A request's way is X-Forwarded-For and then whoever connected here. Of that, what people configure is believed: the
  last place, or so many before it as there are proxies of theirs in front, each of which adds one.
- A client with IPv6 has a network of 2^64 addresses, so what counts is that network.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from policies.request import RequestView

_NETWORK: Final = 64
"""Bits of an IPv6 address that one client's addresses have in common."""


def client_of(request: RequestView, trusted_hops: int) -> str:
    """The address of the client, behind so many proxies; empty when nobody knows it."""
    way = [part.strip() for part in (request.header("x-forwarded-for") or "").split(",") if part.strip()]
    if request.address:
        way.append(request.address)
    if not way:
        return ""
    return network(way[-1 - trusted_hops] if trusted_hops < len(way) else way[-1])


@lru_cache(maxsize=4096)
def network(text: str) -> str:
    """One spelling for all addresses of one client; what is no address stays as it is."""
    found = _parsed(text)
    if found is None:
        return text
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        if mapped is not None:
            return str(mapped)
        return str(ipaddress.IPv6Network((int(found) >> _NETWORK << _NETWORK, _NETWORK)))
    return str(found)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """With or without a port, as some proxies write it: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    bare = text[1:].partition("]")[0] if text[:1] == "[" else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
