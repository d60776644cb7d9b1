"""Grants: which host may hold which service. What is registered proves nothing; without a grant a host is nothing.

Laws
- Grants add up: one pattern that names the host is enough, so order and number of documents do not matter.
- Hosts are names. There is no pattern of hosts, and none that means all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from agent.identity.spiffe import agent_id
from policies.language.document import why_not
from policies.language.names import candidates, parse_pattern, parse_service

MAX_HOSTS: Final = 10_000


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands under `identity/grants/<pattern>`."""

    hosts: list[str]
    description: str = ""


def parse_grant(text: bytes) -> Grant:
    """A grant. Raises ValueError that says what is wrong, and where."""
    try:
        grant = msgspec.json.decode(text, type=Grant)
    except msgspec.MsgspecError as error:
        raise ValueError(str(why_not(error, text, Grant))) from None
    if len(grant.hosts) > MAX_HOSTS:
        raise ValueError(f"$.hosts: {len(grant.hosts)} hosts; at most {MAX_HOSTS}")
    for index, host in enumerate(grant.hosts):
        try:
            agent_id("any", host)
        except ValueError as error:
            raise ValueError(f"$.hosts[{index}]: {error}") from None
    return grant


class Grants:
    """All of a mesh, as they stand."""

    def __init__(self, hosts: Iterable[str] = (), services: Mapping[str, Grant] | None = None) -> None:
        """`hosts`: which have an agent of the mesh; `services`: grants by pattern. Raises ValueError for no pattern."""
        self._hosts = frozenset(hosts)
        self._services = {parse_pattern(key): frozenset(each.hosts) for key, each in (services or {}).items()}

    def may_have_agent(self, host: str) -> bool:
        """Whether a host belongs to the mesh."""
        return host in self._hosts

    def pattern_for(self, host: str, service: str) -> str:
        """The most specific pattern that lets a host of the mesh hold a service; empty: it may not."""
        if host not in self._hosts:
            return ""
        matching = (pattern for pattern in candidates(parse_service(service)) if host in self._of(pattern))
        return next(matching, "")

    def _of(self, pattern: str) -> frozenset[str]:
        return self._services.get(pattern, frozenset())
