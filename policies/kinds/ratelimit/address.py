# mypyc: compiled
"""Whose request it is, by where it came from: what a limit for each client counts by.

Laws
- It is the address that the mesh vouches for, by agents and trusted proxies. Where nobody does, and where a document
  says how many proxies are in front: a request's way is X-Forwarded-For and then whoever connected here. Of that the
  last place is believed, or so many before it as there are proxies, each of which adds one.
- A client with IPv6 has a network of 2^64 addresses, so what counts is that network.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from policies.language.addresses import parsed
from policies.request import RequestView

_NETWORK: Final = 64
"""Bits of an IPv6 address that one client's addresses have in common."""


def client_of(request: RequestView, trusted_hops: int) -> str:
    """The address of the client, behind so many proxies; empty when nobody knows it."""
    if not trusted_hops and request.vouched:
        return network(request.vouched)
    way = [part.strip() for part in (request.header("x-forwarded-for") or "").split(",") if part.strip()]
    if request.address:
        way.append(request.address)
    if not way:
        return ""
    return network(way[-1 - trusted_hops] if trusted_hops < len(way) else way[-1])


@lru_cache(maxsize=4096)
def network(text: str) -> str:
    """One spelling for all addresses of one client; what is no address stays as it is."""
    found = parsed(text)
    if found is None:
        return text
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(found) >> _NETWORK << _NETWORK, _NETWORK)))
    return str(found)
