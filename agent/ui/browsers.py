"""Pages in browsers: which requests are those of the own page, and which another site has a browser make. Pure.

A program says nothing of an origin, and is judged by its Host alone. A browser does, and no page can have it lie.

Laws
- The name that is asked for is one that the agent is called by: an address, localhost, and on the people's port its
  host and the names in the settings. A name that somebody made to point here (DNS rebinding) is none of these.
- Where there is an `Origin`, it is to the letter the place that is asked: scheme, name and port. So what another page
  sends, or another port of this host, changes nothing and reads nothing, by WebSocket neither.
- Where there is a `Sec-Fetch-Site`, it says `same-origin`, or `none` where a person typed the address. From elsewhere a
  person may be led to the page itself, which shows nothing before it has asked as the page.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

LOCALHOST: Final = "localhost"
_PORTS: Final = {"http": 80, "https": 443}
_LED: Final = ("cross-site", "same-site")


class Called(NamedTuple):
    """How an agent is called at a listener, besides by its address and as localhost."""

    names: Collection[str] = ()
    """In small letters."""
    secure: bool = False
    """Whether it speaks TLS."""


class Fields(Protocol):
    """Of a request's head, by names in small letters."""

    def getlist(self, key: str) -> list[str]:
        """Each that is there of a name."""


def why_not(fields: Fields, method: str, called: Called, *, is_page: bool = False) -> str:
    """Why a request is none that a program or the own page makes; empty: it is. `method`: empty for a WebSocket that is
    to be opened. `is_page`: it is for the page itself, to which people are led from elsewhere."""
    hosts = fields.getlist("host")
    name, port = _parted(hosts[0]) if len(hosts) == 1 else ("", None)
    if not is_address(name) and name not in (LOCALHOST, *called.names):
        if not called.names:
            return (
                "Host: the admin API is called by an address or as localhost, and not by a name that others could make"
            )
        known = " or ".join(called.names)
        return f"Host: this agent is called {known}, or by its address, and not {(hosts or [''])[0][:120]}"
    scheme = "https" if called.secure else "http"
    own = (scheme, name, port or _PORTS[scheme])
    if any(_place(origin) != own for origin in fields.getlist("origin")):
        return "Origin: the admin API is for programs and for the agent's own page, not for pages of others"
    sites = fields.getlist("sec-fetch-site")
    if not sites or sites == ["same-origin"]:
        return ""
    goes = fields.getlist("sec-fetch-mode") == ["navigate"] and method in ("GET", "HEAD")
    if goes and sites == ["none"]:
        return ""
    if goes and is_page and sites[0] in _LED and fields.getlist("sec-fetch-dest") == ["document"]:
        return ""
    return "Sec-Fetch-Site: the admin API is for programs and for the agent's own page, not for pages of others"


def is_address(name: str) -> bool:
    """Whether it is one, IPv6 in brackets."""
    bracketed = name.startswith("[") and name.endswith("]")
    if bracketed != (":" in name):
        return False
    try:
        ipaddress.ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        return False
    return True


def _parted(host: str) -> tuple[str, int | None]:
    """Name, in small letters, and port of a Host; an empty name for what is none."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or host.endswith("]"):
        return host.lower(), None
    if not (port.isascii() and port.isdecimal() and len(port) < 6):
        return "", None
    return name, int(port)


def _place(origin: str) -> tuple[str, str, int] | None:
    """Scheme, name and port of an origin; None: it is none (`null`)."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or origin.lower() != f"{parts.scheme}://{parts.netloc.lower()}":
        return None
    return parts.scheme, _parted(parts.netloc)[0], port or _PORTS[parts.scheme]
