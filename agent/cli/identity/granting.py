"""Who may be what: hosts and their grants, added and taken away; and what is registered today, as a list to review."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from agent.cli.failure import Exit, Failure
from agent.cli.identity.domain import Change, Domain, settle
from agent.cli.identity.issuers import check_host
from agent.identity.grants import MAX_HOSTS, Grant
from policies.language.names import matches, parse_pattern
from registry.identity_records import Host
from registry.records import encode
from registry.store import Delete, Put

if TYPE_CHECKING:
    from registry.store import Store

PART: Final = 50
"""Grants in one transaction; etcd takes 128 operations."""


def patterns_of(services: Iterable[str]) -> list[str]:
    """Patterns as they are spelled, each once. Raises Failure."""
    try:
        return sorted({parse_pattern(each) for each in services})
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def added(domain: Domain, host: str, patterns: Iterable[str], description: str) -> Change:
    """That a host belongs to the mesh, and may hold the services of some patterns. Raises Failure."""
    check_host(host)
    key = domain.keys.identity("hosts", host)
    change = Change([domain.unchanged(key)], [])
    held = domain.hosts.get(host)
    if held is None or (description and held.description != description):
        record = msgspec.structs.replace(held or Host(), description=description)
        change.operations.append(Put(key, encode(record)))
    for pattern in patterns:
        _grant(domain, change, host, pattern)
    return change


def removed(domain: Domain, host: str, patterns: Iterable[str]) -> Change:
    """That a host may hold the services of some patterns no more."""
    change = Change([], [])
    for pattern in patterns:
        grant = domain.grants.get(pattern)
        if grant is None or host not in grant.hosts:
            raise Failure(f"{host} has no grant for {pattern}; it has {', '.join(domain.granted(host)) or 'none'}")
        key = domain.keys.identity("grants", pattern)
        change.compares.append(domain.unchanged(key))
        left = [each for each in grant.hosts if each != host]
        change.operations.append(_put(key, grant, left) if left or grant.description else Delete(key))
    return change


async def withdraw(store: Store, mesh: str, host: str) -> None:
    """Takes all grants of a host that there are, as many in one transaction as that takes."""
    while True:
        _, _, revision = await settle(
            store, mesh, lambda domain: (removed(domain, host, domain.granted(host)[:PART]), None)
        )
        if not revision:
            return


def gone(domain: Domain, host: str) -> Change:
    """That a host belongs to the mesh no more, nor issues, and that no token lets it in. Without that its grants are
    worth nothing: `withdraw` takes those."""
    change = Change([], [])
    for what, names in (
        ("hosts", [host]),
        ("issuers", [host]),
        ("joins", [digest for digest, join in domain.joins.items() if join.host == host]),
    ):
        for name in names:
            key = domain.keys.identity(what, name)
            change.compares.append(domain.unchanged(key))
            if domain.revision_of(key):
                change.operations.append(Delete(key))
    return change


def observed(domain: Domain) -> list[str]:
    """What agents have registered, as lines for a shell: the hosts that live, and the services that each has there.
    None of hosts that were put out: whoever runs it all would let them in again."""
    services: dict[str, set[str]] = {}
    out = domain.revocations.hosts - domain.hosts.keys()
    hosts = set(domain.agents) - out
    for (service, _), instance in domain.instances.items():
        if instance.agent and instance.agent not in out:
            services.setdefault(service, set()).add(instance.agent)
            hosts.add(instance.agent)
    lines = [host_line(domain, host) for host in sorted(hosts - set(domain.hosts))]
    for service, named in sorted(services.items()):
        missing = [host for host in named if not any(matches(each, service) for each in domain.granted(host))]
        if missing:
            lines.append(grant_line(domain, service, missing))
    return lines


def host_line(domain: Domain, host: str) -> str:
    """What adds a host to the mesh, for a shell."""
    return _line(domain.keys.identity("hosts", host), encode(Host()))


def grant_line(domain: Domain, service: str, hosts: Iterable[str]) -> str:
    """What lets hosts hold a service, beside those that may, for a shell."""
    grant = domain.grants.get(service, Grant([]))
    put = _put(domain.keys.identity("grants", service), grant, {*grant.hosts, *hosts})
    return _line(put.key, put.value)


def _line(key: str, value: bytes) -> str:
    return f"etcdctl put {shlex.quote(key)} {shlex.quote(value.decode())}"


def _grant(domain: Domain, change: Change, host: str, pattern: str) -> None:
    key = domain.keys.identity("grants", pattern)
    change.compares.append(domain.unchanged(key))
    grant = domain.grants.get(pattern, Grant([]))
    if host in grant.hosts:
        return
    if len(grant.hosts) >= MAX_HOSTS:
        raise Failure(f"the grant for {pattern} has {MAX_HOSTS} hosts, which is the most; use another pattern")
    change.operations.append(_put(key, grant, {*grant.hosts, host}))


def _put(key: str, grant: Grant, hosts: Iterable[str]) -> Put:
    document = {"hosts": sorted(hosts)} | ({"description": grant.description} if grant.description else {})
    return Put(key, msgspec.json.encode(document))
