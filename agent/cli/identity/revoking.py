"""Revocations: what is added to the list, until when it stays there, and what else goes with a host.

Pure. The list only grows: an entry that stands is made longer and later, never shorter.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from agent.cli.failure import Exit, Failure
from agent.cli.identity.domain import Change, Domain
from agent.cli.identity.issuers import chain_in, check_host, intermediate
from agent.identity.certificates import INTERMEDIATE_S, MOST_SVID_S
from agent.identity.revocations import MAX_ENTRIES, Revocations, Revoked
from policies.language.document import meant
from policies.language.names import parse_service
from registry.keys import SERVICE_REQUEST
from registry.store import Put


def known(domain: Domain, sort: str) -> set[str]:
    """The hosts, services or people that etcd says anything of; what it is silent about was most likely mistyped."""
    revoked = {value for entry in domain.revocations.standing(0.0) for of, value in [entry.subject] if of == sort}
    if sort == "host":
        named = {host for grant in domain.grants.values() for host in grant.hosts}
        asked = {host for host, _ in (*domain.requests, *domain.signed)}
        joins = {join.host for join in domain.joins.values() if join.host}
        return {*revoked, *named, *asked, *joins, *domain.hosts, *domain.agents, *domain.holds, *domain.issuers}
    if sort == "person":
        prefix = domain.keys.identity("people", "any").removesuffix("any")
        unread = {key.removeprefix(prefix) for key in domain.malformed if key.startswith(prefix)}
        joins = {join.person for join in domain.joins.values() if join.person}
        return {*revoked, *unread, *joins, *domain.people}
    names = {name for _, name in (*domain.requests, *domain.signed)}
    held = {name for holds in domain.holds.values() for name in holds.services}
    of_names = {name.removeprefix(SERVICE_REQUEST) for name in names if name.startswith(SERVICE_REQUEST)}
    granted = {pattern for pattern in domain.grants if "*" not in pattern}
    return {*revoked, *of_names, *held, *granted, *(service for service, _ in domain.instances)}


def check_known(domain: Domain, sort: str, value: str) -> None:
    """Raises Failure for a name that etcd says nothing of: what was meant would go on, and nobody look again."""
    domain.required()
    domain.unchanged(domain.keys.identity("revocations"))
    names = known(domain, sort)
    if value not in names:
        raise Failure(
            f"no {sort} {value!r} is known here{meant(value, names)}; nothing was revoked. "
            f"--force revokes a name that etcd knows no more, as of who was removed before"
        )


def parse_serial(text: str) -> str:
    """A serial number as revocations have it: hex, as `openssl x509 -serial` and browsers show it. Raises Failure."""
    digits = text.replace(":", "").removeprefix("serial=").lower().removeprefix("0x").lstrip("0")
    if not digits or len(digits) > 40 or set(digits) - set("0123456789abcdef"):
        raise Failure(f"{text[:60]!r} is no serial number: hex, as `openssl x509 -noout -serial` shows it", Exit.USAGE)
    return digits


def knows_serial(domain: Domain, serial: str) -> bool:
    """Whether a certificate of that number stands in etcd."""
    return any(f"{each.serial_number:x}" == serial for each in _certificates(domain))


def of_certificate(domain: Domain, serial: str, now_s: float, reason: str, by: str = "") -> Revoked:
    """One certificate, until it would have ended; of one that etcd does not know, until any would have."""
    found = next((each for each in _certificates(domain) if f"{each.serial_number:x}" == serial), None)
    ends = found.not_valid_after_utc if found is not None else _moment(now_s + INTERMEDIATE_S)
    if ends.timestamp() <= now_s:
        raise Failure(f"the certificate {serial} has ended at {ends.isoformat()} by itself")
    return Revoked(until=ends, serial=serial, reason=reason, by=by, at=_moment(now_s))


def of_host(domain: Domain, host: str, now_s: float, reason: str, by: str = "") -> Revoked:
    """All that a host has had; of an issuer also all that it has signed."""
    check_host(host)
    above = intermediate(domain, host)
    ends_s = above.not_valid_after_utc.timestamp() if above is not None else 0.0
    ends = _moment(max(now_s + MOST_SVID_S, ends_s))
    now = _moment(now_s)
    return Revoked(until=ends, host=host, before=now, reason=reason, by=by, at=now)


def of_service(service: str, now_s: float, reason: str, by: str = "") -> Revoked:
    """All that a service has had, on any host."""
    try:
        name = parse_service(service)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    now, ends = _moment(now_s), _moment(now_s + MOST_SVID_S)
    return Revoked(until=ends, service=name, before=now, reason=reason, by=by, at=now)


def added(domain: Domain, entry: Revoked, now_s: float) -> Change:
    """The list with an entry more, and without what is over. Raises Failure where it is full."""
    domain.required()
    key = domain.keys.identity("revocations")
    merged = domain.revocations.merged(Revocations([entry]), now_s)
    if len(merged) > MAX_ENTRIES:
        raise Failure(f"{MAX_ENTRIES} revocations stand, which is the most; they go as their certificates end")
    change = Change([domain.unchanged(key)], [])
    if merged != domain.revocations:
        change.operations.append(Put(key, merged.document()))
    return change


def asked_and_answered(domain: Domain, host: str) -> list[str]:
    """The keys of a host's requests, and of what came of them."""
    asked = [domain.keys.request(host, name) for owner, name in domain.requests if owner == host]
    return asked + [domain.keys.signed(host, name) for owner, name in domain.signed if owner == host]


def registered(domain: Domain, host: str) -> list[list[str]]:
    """The keys of a host's instances and their health, service by service: agents doubt a revision in which several
    services lose all that they have, and the loss of an owner with all that it owned."""
    services: dict[str, list[str]] = {}
    for (service, id), instance in sorted(domain.instances.items()):
        if instance.agent == host:
            keys = [domain.keys.instance(service, id), domain.keys.health(service, id)]
            services.setdefault(service, []).extend(keys)
    return list(services.values())


def lease_of(domain: Domain, host: str) -> int:
    """The lease of a host's agent; 0: it has none."""
    item = domain.items.get(domain.keys.agent(host))
    return item.lease if item is not None else 0


def _certificates(domain: Domain) -> Iterator[x509.Certificate]:
    for chain in [each.chain for each in domain.signed.values()] + [each.chain for each in domain.issuers.values()]:
        yield from chain_in(chain)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
