"""How a host is put out of a mesh: first what it holds is worth nothing, then it can write nothing, then it is gone.

In this order, since a host that has its rights puts back what was taken from it. Asked again, it does what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.cli.identity import granting, revoking
from agent.cli.identity.domain import Change, Domain, now_s, settle, take
from agent.cli.identity.issuers import check_host
from registry.etcd.users import ROOT, remove_user
from registry.store import Delete, Refused

if TYPE_CHECKING:
    from registry.etcd.store import EtcdStore

PART = 100
"""Keys that are deleted in one transaction; etcd takes 128."""


class Expelled(msgspec.Struct):
    """What was done."""

    revision: int
    """From which on it is revoked."""
    done: list[str]
    left: list[str]
    """What somebody has to see to."""


async def expel(store: EtcdStore, mesh: str, host: str, reason: str, user: str, by: str, *, force: bool) -> Expelled:
    """Puts a host out; `user`: who asks, in etcd; `by`: for people. `force`: also one that nobody
    knows. Raises Failure, and StoreError."""

    def decide(domain: Domain) -> tuple[Change, list[str]]:
        check_host(host)
        if not force:
            revoking.check_known(domain, "host", host)
        entry = revoking.of_host(domain, host, now_s(), reason, by)
        change = revoking.added(domain, entry, now_s())
        out = granting.gone(domain, host)
        return Change(change.compares + out.compares, change.operations + out.operations), domain.granted(host)

    granted, domain, revision = await settle(store, mesh, decide)
    await granting.withdraw(store, mesh, host)
    done = [f"{host} is revoked: what it holds is refused from revision {revision} on"]
    if granted:
        done.append(f"no grant names it any more: {', '.join(granted)} did")
    told = Expelled(revision, done, [])
    await _end_user(store, host, user, told)
    await _end_presence(store, mesh, host, told)
    if host in domain.issuers and not set(domain.issuers) - {host}:
        told.left.append("it was the only issuer: name another with `shoal ca init --issuer HOST`")
    return told


async def _end_user(store: EtcdStore, host: str, user: str, told: Expelled) -> None:
    if host in (ROOT, user):
        told.left.append(f"the user {host!r} of etcd is not taken away: it is yours, or etcd's own")
        return
    try:
        existed = await remove_user(store, host)
    except Refused as refused:
        told.left.append(f"its user in etcd may be there still, who can write what it may: {refused}")
        return
    if existed:
        told.done.append(f"its user in etcd is gone: {host}")
    else:
        told.left.append(
            f"etcd has no user {host!r}: as whom its agent writes there is not known; stop it, or take its rights away"
        )


async def _end_presence(store: EtcdStore, mesh: str, host: str, told: Expelled) -> None:
    """Instances first, while its agent's key stands: what goes with its owner's key agents suspect to live."""
    domain = await take(store, mesh)
    services = revoking.registered(domain, host)
    for keys in (*services, revoking.asked_and_answered(domain, host)):
        for at in range(0, len(keys), PART):
            await store.transact([], [Delete(key) for key in keys[at : at + PART]])
    lease = revoking.lease_of(domain, host)
    if lease:
        await store.revoke(lease)
    if services or lease:
        told.done.append(
            f"its instances of {len(services)} service{'s' * (len(services) != 1)} are gone, and its lease"
        )
