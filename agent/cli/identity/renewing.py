"""What `shoal ca rotate` decides: who is to renew, and who has.

Nothing is cut off by a renewal: what is held is used until the next is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from agent.cli.failure import Failure
from agent.cli.identity.domain import Change, Domain, now_s, settle, take
from registry.keys import AGENT_REQUEST, SERVICE_REQUEST
from registry.records import encode
from registry.store import Put

if TYPE_CHECKING:
    from registry.store import Store

PART: Final = 50
"""Hosts in one transaction; etcd takes 128 operations."""


async def wish(store: Store, mesh: str, hosts: Iterable[str]) -> tuple[list[str], int]:
    """That hosts (none named: all) renew what they hold. Those hosts, and the revision of its first part: there may
    be more of them than a transaction takes. Raises Failure for one that is none of the mesh."""
    domain = await take(store, mesh)
    domain.required()
    named, first = sorted(set(hosts)) or sorted(domain.hosts), 0
    for at in range(0, len(named), PART):
        decide = partial(_wished, named[at : at + PART], datetime.fromtimestamp(now_s(), UTC))
        _, _, revision = await settle(store, mesh, decide)
        first = first or revision
    return named, first


def _wished(hosts: list[str], moment: datetime, domain: Domain) -> tuple[Change, None]:
    change = Change([], [])
    for host in hosts:
        if host not in domain.hosts:
            raise Failure(f"{host} is no host of this mesh; `shoal host list` has those that are")
        key = domain.keys.identity("hosts", host)
        change.compares.append(domain.unchanged(key))
        change.operations.append(Put(key, encode(msgspec.structs.replace(domain.hosts[host], renew_before=moment))))
    return change, None


def not_renewed(domain: Domain, hosts: Iterable[str], revision: int) -> list[str]:
    """What live agents among some hosts hold, as `host name`, that was asked for before a revision."""
    found = []
    for host in hosts:
        holds = domain.holds.get(host)
        if host not in domain.agents or holds is None:
            continue
        named = [*([AGENT_REQUEST] if holds.agent else []), *(SERVICE_REQUEST + each for each in holds.services)]
        for name in sorted(named):
            signed = domain.signed.get((host, name))
            if signed is None or not signed.chain or signed.request <= revision:
                found.append(f"{host} {name}")
    return found
