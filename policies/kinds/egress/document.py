"""`egress`: which hosts outside the mesh a service may call through its agent."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Final

from msgspec import Meta

from policies.language.document import Document
from policies.language.plain import Flaw, below

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}\Z")
RIGHT: Final = "write api.example.com, *.example.com, 192.0.2.1, [2001:db8::1] or *, with :443 behind it for one port"


class Egress(Document, frozen=True, kw_only=True):
    """The document."""

    allow: Annotated[
        tuple[str, ...], Meta(max_length=1000, description="Hosts that may be called; none of them: no call passes")
    ]

    def check(self) -> None:
        """Each is a host that could be called."""
        for n, text in enumerate(self.allow):
            try:
                split(text)
            except ValueError as error:
                raise Flaw(below("$", "allow", n), str(error)) from None


def split(text: str) -> tuple[str, int]:
    """A host in its one form (lower case, no dot at its end, addresses without brackets), and its port; 0: any.
    Raises ValueError that says what would be right."""
    name, port = text, ""
    if text[:1] == "[":
        name, bracket, port = text[1:].partition("]")
        if not bracket or port[:1] not in ("", ":"):
            raise ValueError(f"{text[:80]!r} is no host; {RIGHT}")
        port = port[1:]
        if ":" not in name:
            raise ValueError(f"{text[:80]!r} is no host; {RIGHT}")
    elif text.count(":") > 1 or "/" in text:
        raise ValueError(f"{text[:80]!r} is no host; {RIGHT}")
    elif ":" in text:
        name, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text[:80]!r} has no port from 1 to 65535 behind its colon")
    if not port and text[-1:] == ":":
        raise ValueError(f"{text[:80]!r} has no port from 1 to 65535 behind its colon")
    return canonical(name, text), int(port or "0")


def canonical(name: str, text: str) -> str:
    """One form of a name or an address. Raises ValueError."""
    name = name.lower().removesuffix(".")
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    if name == "*" or (len(name) < 254 and _NAME.match(name)):
        return name
    raise ValueError(f"{text[:80]!r} is no host; {RIGHT}")
