"""What `shoal ca status` tells: roots, issuers, who holds what until when, who asks for what, and what is wrong.

Pure: what etcd says and the time in, plain data out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from cryptography import x509

from agent.cli.identity.domain import Domain
from agent.cli.identity.granting import grant_line, host_line
from agent.cli.identity.issuers import asking, chain_in, fingerprint, intermediate, is_answered, root_above
from agent.identity.grants import Grants
from agent.identity.renewal import alarm_at_s
from agent.identity.revocations import Revoked
from policies.language.document import meant
from registry.keys import AGENT_REQUEST, ISSUER_REQUEST, SERVICE_REQUEST, Room

Row = dict[str, Any]
GOOD: Final = frozenset({"current", "away"})
"""States that nobody has to do anything about."""
_ROOMS: Final = (Room.IDENTITY, Room.REQUESTS, Room.SIGNED)


def report(domain: Domain, now_s: float) -> Row:
    """All of it. `wrong` says whether somebody should do something."""
    bundle = domain.required()
    issuers = [_issuer(domain, host, now_s) for host in sorted(domain.issuers)]
    held = [row for host in sorted({*domain.believed.hosts, *domain.holds}) for row in _held(domain, host, now_s)]
    hosts = [_host(domain, host, held) for host in sorted({*domain.believed.hosts, *domain.holds, *domain.agents})]
    pending = list(_pending(domain))
    refused = list(_refused(domain))
    revoked = [_revocation(entry) for entry in domain.revocations.standing(now_s)]
    asked = {(row["host"], row["name"]) for row in (*pending, *refused)}
    ungranted = [row for row in _ungranted(domain) if (row["host"], row["name"]) not in asked]
    malformed = _malformed(domain)
    bad = [row for row in (*issuers, *held, *hosts) if row["state"] not in GOOD]
    return {
        "trust_domain": bundle.trust_domain,
        "sequence": bundle.sequence,
        "revision": domain.revision,
        "roots": [_root(domain, root, now_s) for root in bundle.roots],
        "issuers": issuers,
        "hosts": hosts,
        "held": held,
        "pending": pending,
        "refused": refused,
        "ungranted": ungranted,
        "hostless": _hostless(domain),
        "plain": list(_plain(domain)),
        "revoked": revoked,
        "malformed": malformed,
        "wrong": bool(bad or refused or ungranted or malformed or not issuers),
    }


def until(certificate: x509.Certificate) -> str:
    """Its end, for people and for scripts."""
    return moment(certificate.not_valid_after_utc)


def moment(time: datetime) -> str:
    """RFC 3339, UTC, whole seconds."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def expelled(domain: Domain, host: str) -> Revoked | None:
    """The revocation of a host that was put out; None: it was not, or belongs to the mesh again."""
    return None if host in domain.hosts else domain.revocations.of("host", host)


def _revocation(entry: Revoked) -> Row:
    sort, name = entry.subject
    since = moment(entry.since) if entry.since is not None else None
    return {
        "sort": sort,
        "name": name,
        "since": since,
        "by": entry.by,
        "reason": entry.reason,
        "until": moment(entry.until),
    }


def _root(domain: Domain, root: x509.Certificate, now_s: float) -> Row:
    signs = [host for host in sorted(domain.issuers) if root_above(domain, host) == root]
    return {"fingerprint": fingerprint(root), "until": until(root), "issuers": signs, "state": _age(root, now_s)}


def _issuer(domain: Domain, host: str, now_s: float) -> Row:
    held = intermediate(domain, host)
    ready, _ = asking(domain, [host])
    state = "current"
    if held is None:
        state = "wants an intermediate" if ready else "has not asked"
    elif root_above(domain, host) is None:
        state = "of no root of the bundle"
    elif (aged := _age(held, now_s)) != "current":
        state = aged
    elif ready and not is_answered(domain, ready[0]):
        state = "wants another intermediate"
    return {
        "host": host,
        "until": until(held) if held is not None else None,
        "serial": f"{held.serial_number:x}" if held is not None else None,
        "lives": host in domain.agents,
        "state": state,
    }


def _host(domain: Domain, host: str, held: list[Row]) -> Row:
    holds = domain.holds.get(host)
    lives = host in domain.agents
    state = "current"
    if not lives:
        state = "away"
    elif host not in domain.believed.hosts:
        state = "not added" if expelled(domain, host) is None else "revoked"
    elif holds is None or holds.agent is None:
        state = "holds nothing"
    elif domain.bundle is not None and holds.bundle < domain.bundle.sequence:
        state = "lagging"
    return {
        "host": host,
        "lives": lives,
        "bundle": holds.bundle if holds is not None else None,
        "granted": domain.believed.granted(host),
        "holds": sum(row["host"] == host for row in held),
        "state": state,
    }


def _held(domain: Domain, host: str, now_s: float) -> Iterator[Row]:
    holds = domain.holds.get(host)
    if holds is None:
        return
    named = [(AGENT_REQUEST, holds.agent), *((SERVICE_REQUEST + name, end) for name, end in holds.services.items())]
    for name, end in sorted((name, end) for name, end in named if end is not None):
        state = "ended" if end.timestamp() <= now_s else "current"
        signed = domain.signed.get((host, name))
        chain = chain_in(signed.chain) if signed is not None else []
        if state == "current" and chain and chain[0].not_valid_after_utc == end:
            state = _age(chain[0], now_s)
        yield {"host": host, "name": name, "until": moment(end), "state": state}


def _age(certificate: x509.Certificate, now_s: float) -> str:
    begins_s, ends_s = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return "ended" if ends_s <= now_s else "ends soon" if alarm_at_s(begins_s, ends_s) <= now_s else "current"


def _pending(domain: Domain) -> Iterator[Row]:
    """What was asked for and not answered yet. Who wants an intermediate stands among the issuers."""
    for (host, name), request in sorted(domain.requests.items()):
        signed = domain.signed.get((host, name))
        stands = domain.revision_of(domain.keys.request(host, name))
        if name != ISSUER_REQUEST and (signed is None or signed.request < stands):
            yield {"host": host, "name": name, "since": moment(request.at), "allow": _allow(domain, host, name)}


def _refused(domain: Domain) -> Iterator[Row]:
    for (host, name), signed in sorted(domain.signed.items()):
        stands = domain.revision_of(domain.keys.request(host, name))
        if signed.refused and signed.request >= stands:
            yield {"host": host, "name": name, "reason": signed.refused, "allow": _allow(domain, host, name)}


def _ungranted(domain: Domain) -> Iterator[Row]:
    """What hosts whose agents live have registered, and may not hold: agents do not ask for what no grant names."""
    registered = {(each.agent, service) for (service, _), each in domain.instances.items() if each.agent}
    for host, service in sorted(registered):
        name = SERVICE_REQUEST + service
        if host in domain.agents and not Grants([host], domain.believed.grants).pattern_for(host, service):
            yield {"host": host, "name": name, "allow": _allow(domain, host, name)}


def _hostless(domain: Domain) -> list[Row]:
    """Grants that name hosts that are none of the mesh; those that a token lets in will be."""
    believed = domain.believed
    known = believed.hosts | {join.host for join in domain.joins.values()}
    unknown = {pattern: sorted(set(grant.hosts) - known) for pattern, grant in sorted(believed.grants.items())}
    return [
        {"pattern": pattern, "host": host, "meant": meant(host, known)}
        for pattern in unknown
        for host in unknown[pattern]
    ]


def _plain(domain: Domain) -> Iterator[Row]:
    """Who sends plain text where `tls` is permissive, to whom and for which services, and when that was last seen. Both
    ends may have seen it; an address that no agent is registered at stands for whoever is there."""
    hosts = {agent.address: host for host, agent in domain.agents.items()}
    last: dict[tuple[str, str], dict[str, str]] = {}
    for host, seen in domain.seen.items():
        for service, peers in seen.plain.items():
            for peer, at in peers.items():
                pair = (host, peer) if peer in domain.agents else (hosts.get(peer, peer), host)
                services = last.setdefault(pair, {})
                services[service] = max(at, services.get(service, ""))
    for (sender, receiver), services in sorted(last.items()):
        yield {"from": sender, "to": receiver, "services": sorted(services), "last": max(services.values())}


def _allow(domain: Domain, host: str, name: str) -> list[str]:
    """The lines that let a host hold what it asks for; none: it may already, or was put out, which nobody undoes by
    copying a line."""
    if expelled(domain, host) is not None:
        return []
    lines = [] if host in domain.believed.hosts else [host_line(domain, host)]
    service = name.removeprefix(SERVICE_REQUEST)
    if service != name and not Grants([host], domain.believed.grants).pattern_for(host, service):
        lines.append(grant_line(domain, service, [host]))
    return lines


def _malformed(domain: Domain) -> dict[str, str]:
    rooms = tuple(domain.keys.room(room) for room in _ROOMS)
    return {key: why for key, why in domain.malformed.items() if key.startswith(rooms) or key.endswith("/trust")}
