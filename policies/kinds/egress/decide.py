# mypyc: compiled
"""`egress`: whether a host outside the mesh may be called.

Law: what hands out credentials of the machine (link-local and metadata addresses) is no host like others. Neither `*`
nor a name that leads there opens it, but the address itself does, written out.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

from policies.decision import Denied
from policies.kind import ANYWHERE, Scope
from policies.kinds.egress.document import Egress, split
from policies.request import RequestView

HTTP_PORT: Final = 80
_METADATA: Final = frozenset(("fd00:ec2::254", "100.100.100.200"))
"""Of clouds that have it elsewhere than at 169.254.169.254."""


def compile(document: Egress, scope: Scope = ANYWHERE) -> Compiled:
    """Ready to be asked."""
    return Compiled([split(text) for text in document.allow])


class Compiled:
    """Of one document."""

    __slots__ = ("_exact", "_under")

    def __init__(self, allowed: list[tuple[str, int]]) -> None:
        self._exact = frozenset(allowed)
        self._under = frozenset([(name[2:], port) for name, port in allowed if name[:2] == "*."])

    def decide(self, request: RequestView) -> Denied | None:
        """By the host that is asked for."""
        try:
            name, port = destination(request.header("host") or "")
        except ValueError as error:
            return Denied(403, str(error))
        if self._allows(name, port):
            return None
        return Denied(403, f"{name}:{port} is outside the mesh, and not in $.allow")

    def _allows(self, name: str, port: int) -> bool:
        if self._has(self._exact, name, port):
            return True
        if hands_out_credentials(name):
            return False
        if self._has(self._exact, "*", port):
            return True
        _, _, rest = name.partition(".")
        while rest:
            if self._has(self._under, rest, port):
                return True
            _, _, rest = rest.partition(".")
        return False

    def _has(self, among: frozenset[tuple[str, int]], name: str, port: int) -> bool:
        return (name, port) in among or (name, 0) in among


def destination(host: str) -> tuple[str, int]:
    """Name and port of a Host field, as documents have them. Raises ValueError."""
    name, port = split(host)
    if "*" in name:
        raise ValueError(f"{host[:80]!r} is no host that could be called")
    return name, port or HTTP_PORT


def hands_out_credentials(address: str) -> bool:
    """Whether an address is link-local, or a cloud's for metadata; False for what is no address."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return hands_out_credentials(str(found.ipv4_mapped))
    return found.is_link_local or str(found) in _METADATA
