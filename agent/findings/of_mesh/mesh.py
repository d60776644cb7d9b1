"""Instances and agents, as etcd has them; keys that nobody reads; and other meshes beside this one."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from agent.findings.finding import Finding, named, unread
from agent.findings.of_mesh.facts import Facts
from policies.language.document import meant
from registry.keys import Room

_ROOMS: Final = frozenset(room.value for room in Room)
SKEW_S: Final = 5.0
"""What is newer than now by more was written by another clock."""


def of_instances(facts: Facts) -> Iterator[Finding]:
    """Services that nobody can use, and instances that nobody looks after."""
    census = facts.census
    usable: dict[str, int] = {}
    for (service, id), instance in census.instances.items():
        health = census.health.get((service, id))
        well = instance.state == "serving" and (health is None or health.healthy)
        usable[service] = usable.get(service, 0) + well
    for service, count in sorted(usable.items()):
        if not count:
            see = f"`shoal instances {service}` says why"
            yield Finding("nobody-healthy", "error", service, "none of its instances is healthy and serves", see)
    kept = Counter(service for service, id in facts.suspects if (service, id) not in census.instances)
    for service, count in sorted(kept.items()):
        if service not in usable:
            what = f"nothing of it stands in etcd any more; requests go to what is kept of it as suspects ({count})"
            yield Finding(
                "nobody-healthy", "warning", service, what, f"`shoal instances {service}` says whose they were"
            )
    lost: dict[str, list[str]] = {}
    for (service, id), instance in sorted(census.instances.items()):
        if instance.agent and instance.agent not in census.agents:
            lost.setdefault(instance.agent, []).append(f"{service}/{id}")
    for host, names in lost.items():
        what = f"its agent is not alive, and {named(names)} {'stand' if len(names) > 1 else 'stands'} in etcd"
        yield Finding("agent-gone", "warning", host, what, "start it, or delete these keys, if nobody will come back")


def of_agents(facts: Facts) -> Iterator[Finding]:
    """Who is alive, what they run, and where they are."""
    census = facts.census
    if not census.agents:
        yield Finding(
            "no-agent",
            "error",
            facts.mesh,
            "no agent is alive in this mesh",
            "`shoal agent` starts one; --mesh names another mesh",
        )
        return
    places = Counter((agent.address, agent.inbound_port) for agent in census.agents.values())
    on_one_host = all(ipaddress.ip_address(place[0]).is_loopback for place in places) and max(places.values()) == 1
    for host, agent in sorted(census.agents.items()):
        ack = census.acks.get(host)
        runs = ack.revision if ack is not None else 0
        if runs < census.wanted:
            what = f"runs {f'revision {runs}' if runs else 'nothing so far'}, and not {census.wanted}"
            yield Finding("agent-lags", "error", host, what, "`shoal status` there, and its log")
        if len(census.agents) > 1 and ipaddress.ip_address(agent.address).is_loopback and not on_one_host:
            what = f"its address is {agent.address}, where agents of other hosts reach themselves"
            yield Finding("agent-loopback", "error", host, what, "set `address` in its agent.toml")
        told = census.versions.get(host)
        if told is not None and told.build == "interpreted":
            yield Finding(
                "interpreted",
                "warning",
                host,
                "its request path is not compiled, at twice the cost",
                "install the wheel",
            )
    versions = sorted({agent.version for agent in census.agents.values()} - {""})
    if len(versions) > 1:
        yield Finding(
            "versions", "info", facts.mesh, f"agents of {named(versions)} beside each other", "upgrade the older ones"
        )


def of_clocks(facts: Facts) -> Iterator[Finding]:
    """What was written later than now."""
    if not facts.now:
        return
    ahead: dict[str, float] = {}
    for host, ack in facts.census.acks.items():
        ahead[host] = _unix(ack.at) - facts.now
    for host, agent in facts.census.agents.items():
        ahead[host] = max(ahead.get(host, 0.0), _unix(agent.started) - facts.now)
    for host, by_s in sorted(ahead.items()):
        if by_s > SKEW_S:
            what = f"its clock is {by_s:.0f} s before this host's"
            yield Finding("clock", "warning", host, what, "let both hosts take their time from one source (NTP)")


def _unix(timestamp: str) -> float:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return 0.0


def of_keys(facts: Facts) -> Iterator[Finding]:
    """What stands in etcd and is read by nobody."""
    for key, reason in sorted((facts.census.malformed | facts.strangers).items()):
        yield unread(key, reason)
    for id, record in sorted(facts.census.undelivered.items()):
        hooks = "; ".join(f"{hook}: {outcome}" for hook, outcome in record.done.items())
        yield Finding(
            "undelivered",
            "warning",
            id,
            f"an event that a webhook did not take: {hooks}",
            f"`shoal events replay {id}`",
        )


def of_meshes(facts: Facts) -> Iterator[Finding]:
    """A mesh without agents is mostly a typo; agents in another one may be, too."""
    if facts.not_seen:
        what = f"whether there are keys outside of this mesh is not known: {facts.not_seen}"
        yield Finding("not-looked", "info", facts.mesh, what, "ask as a user that may read /shoal/")
    inhabited = {facts.mesh, *(name for name, mesh in facts.meshes.items() if mesh.agents)}
    for name, mesh in sorted(facts.meshes.items()):
        if name in _ROOMS:
            what = f"a mesh of this name, or keys that leave out theirs, as in /shoal/{facts.mesh}/{name}/"
            yield Finding(
                "empty-mesh", "warning", f"/shoal/{name}/", what, "move its keys, or `etcdctl del --prefix` them"
            )
        elif not mesh.agents:
            policies = f"; of policies there it has {mesh.policies}, in force nowhere" if mesh.policies else ""
            what = f"a mesh without an agent{meant(name, inhabited)}{policies}"
            yield Finding(
                "empty-mesh", "warning", f"/shoal/{name}/", what, "move its keys, or `etcdctl del --prefix` them"
            )
        elif not facts.census.agents:
            say = f"look there: --mesh {name}, or change `mesh` in their agent.toml"
            yield Finding(
                "other-mesh", "warning", f"/shoal/{name}/", f"{mesh.agents} agents are alive in this mesh", say
            )
