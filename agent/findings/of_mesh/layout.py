"""Where agents are to write: hosts of a version that cannot, and meshes that have moved in part. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.findings.finding import Finding, named
from agent.findings.of_mesh.facts import Facts
from registry.census import Census
from registry.keys import HOSTS, owner_of
from registry.records import MOVED


def unable(census: Census, rooms: Iterable[str] = MOVED) -> list[str]:
    """Live agents that do not say that they can write under keys of their own: instances, and more rooms."""
    told, needed = census.versions, {HOSTS, *rooms}
    return [host for host in sorted(census.agents) if host not in told or not needed <= set(told[host].keys)]


def elsewhere(census: Census, *, own: bool) -> dict[str, list[str]]:
    """Instances of live agents that do not stand where they are to: under `hosts/` (`own`), or not; by host."""
    found: dict[str, list[str]] = {}
    for (service, id), record in sorted(census.instances.items()):
        if record.agent in census.agents and bool(owner_of(id)) is not own:
            found.setdefault(record.agent, []).append(f"{service}/{id}")
    return found


def untold(census: Census) -> list[str]:
    """Hosts under whose own keys events stand that are still to be told."""
    return sorted({entry.host for entry in census.events.values() if entry.host})


def common_ids(census: Census) -> list[str]:
    """Ids of a service that more than one host has, or one and somebody by hand: one of them only can go back."""
    by: dict[tuple[str, str], list[str]] = {}
    for (service, id), record in census.instances.items():
        by.setdefault((service, id.partition("@")[0]), []).append(record.agent or "by hand")
    return [
        f"{service}/{id} ({', '.join(sorted(hosts))})"
        for (service, id), hosts in sorted(by.items())
        if len(set(hosts)) > 1
    ]


def of_layout(facts: Facts) -> Iterator[Finding]:
    """Who writes where others do not look, or are about not to."""
    census = facts.census
    if census.layout is None:
        return
    own = census.layout.own
    if own:
        blind = unable(census, ())
        for host in unable(census, census.layout.rooms):
            where = "hosts/" if host in blind else "reports/, or read events there"
            what = f"its version, or its role in etcd, does not let it write under {where}, as this mesh does"
            if host in blind and census.layout.state == "own_only":
                what += ": what it registers is used by nobody"
            yield Finding("keys-old", "error", host, what, "upgrade it, widen its role, or `shoal mesh migrate --back`")
    for host, names in elsewhere(census, own=own).items():
        where = "not under hosts/" if own else "under hosts/"
        what = f"{named(names)} {'stand' if len(names) > 1 else 'stands'} {where}, and the mesh says otherwise"
        again = "`shoal mesh migrate`" if own else "`shoal mesh migrate --back`"
        yield Finding("keys-moving", "warning", host, what, f"wait, then {again} says who has not moved")
