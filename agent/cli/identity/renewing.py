"""What `shoal ca rotate` decides: who is to renew, and who has.

Pure. Nothing is cut off by a renewal: what is held is used until the next is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from agent.cli.failure import Failure
from agent.cli.identity.domain import Change, Domain
from registry.keys import AGENT_REQUEST, SERVICE_REQUEST
from registry.records import encode
from registry.store import Put


def wished(domain: Domain, hosts: Iterable[str], now_s: float) -> tuple[Change, list[str]]:
    """That hosts (none named: all) renew what they hold; those hosts. Raises Failure for one that is none."""
    domain.required()
    named = sorted(set(hosts)) or sorted(domain.hosts)
    change = Change([], [])
    for host in named:
        if host not in domain.hosts:
            raise Failure(f"{host} is no host of this mesh; `shoal host list` has those that are")
        key = domain.keys.identity("hosts", host)
        moment = datetime.fromtimestamp(now_s, UTC)
        change.compares.append(domain.unchanged(key))
        change.operations.append(Put(key, encode(msgspec.structs.replace(domain.hosts[host], renew_before=moment))))
    return change, named


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
