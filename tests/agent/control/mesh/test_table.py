from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from agent.control.host.own_ports import OwnPorts
from agent.control.mesh.departed import KEEP_S, MOST, Departed
from agent.control.mesh.distrust.source import DISK
from agent.control.mesh.service import Service
from agent.control.mesh.table import Table
from agent.frames import Gone, Stage
from policies.kinds.health.document import HealthPolicy
from registry.store import Change
from tests.support.tables import KEYS, STEPS, Etcd, P, as_bytes, instance

ROUTE = b'{"rules": [{"split": [{"version": "v1", "weight": 1}]}]}'


def _whenever(frame: Stage | Gone) -> Stage | Gone:
    return msgspec.structs.replace(frame, revision=0) if isinstance(frame, Stage) else frame


def test_an_instance_touches_its_service_only() -> None:
    """One flapping instance re-sends one service, whatever else there is."""
    etcd = Etcd()
    etcd.put({f"instances/s{n}/a": instance() for n in range(50)})
    assert etcd.put({"instances/s7/b": instance(81)}) == {"s7"}
    assert etcd.put({"health/s7/b": {"healthy": False}}) == {"s7"}
    assert not etcd.endpoints("s7")["b"].healthy
    assert etcd.delete("instances/s7/b", "health/s7/b") == {"s7"}
    assert list(etcd.endpoints("s7")) == ["a"]


def test_what_a_host_owns_under_its_own_key() -> None:
    """Is an instance of that host's agent, whatever it says; and two hosts that use one id have two."""
    etcd = Etcd()
    etcd.put({f"agents/{host}": {"address": f"10.0.0.{n}", "inbound_port": 1} for n, host in enumerate("abc")})
    assert etcd.put({"hosts/a/instances/pets/1": instance(81), "hosts/b/instances/pets/1": instance(82)}) == {"pets"}
    etcd.put({"instances/pets/1": instance(83, agent="c"), "hosts/b/health/pets/1": {"healthy": False}})
    found = etcd.endpoints("pets")
    assert {id: (each.port, each.agent, each.healthy) for id, each in found.items()} == {
        "1": (83, "c", True),
        "1@a": (81, "a", True),
        "1@b": (82, "b", False),
    }
    assert etcd.delete("hosts/a/instances/pets/1") == {"pets"}
    assert set(etcd.endpoints("pets")) == {"1", "1@b"}


def test_a_host_speaks_for_no_other() -> None:
    """A record under its key that names another's agent is malformed, and the last good one stays."""
    etcd = Etcd()
    etcd.put({"hosts/a/instances/pets/1": instance(81)})
    for other in (instance(82, agent="b"), b"?"):
        etcd.put({"hosts/a/instances/pets/1": other})
        assert etcd.endpoints("pets")["1@a"].port == 81
    etcd.put(
        {"hosts/a/instances/pets/1": instance(82, agent="b"), "hosts/a/health/pets/1": {"healthy": False, "agent": "b"}}
    )
    assert etcd.table.malformed[f"{P}hosts/a/instances/pets/1"] == "$.agent: 'b' under a key that is a's; leave it out"
    assert f"{P}hosts/a/health/pets/1" in etcd.table.malformed and etcd.endpoints("pets")["1@a"].healthy
    etcd.put({"hosts/a/instances/pets/1": instance(83, agent="a")})
    assert etcd.endpoints("pets")["1@a"].port == 83 and f"{P}hosts/a/instances/pets/1" not in etcd.table.malformed


def test_a_host_that_moves_its_keys() -> None:
    """In one revision: there is never a moment without its instances, and nothing is suspected; a whole mesh too."""
    etcd = Etcd()
    etcd.put({"agents/a": {"address": "10.0.0.9", "inbound_port": 1}})
    etcd.put({f"instances/s{n}/1": instance(80 + n, agent="a") for n in range(4)})
    there = {f"hosts/a/instances/s{n}/1": instance(80 + n) for n in range(4)}
    etcd.put({**there, **{f"instances/s{n}/1": None for n in range(4)}})
    for n in range(4):
        assert list(etcd.endpoints(f"s{n}")) == ["1@a"] and not etcd.endpoints(f"s{n}")["1@a"].suspect
    assert etcd.table.removed == {}
    assert etcd.table.forms.moved == {(f"s{n}", "1@a"): (f"s{n}", "1") for n in range(4)}
    etcd.put({"instances/s0/1": instance(80, agent="b"), "hosts/a/instances/s0/1": None})
    assert list(etcd.table.removed) == [("s0", "1@a")], "another host's of that id is not where it went"


def test_where_agents_write() -> None:
    """Once all have moved, a record at a key that is no host's own speaks for nobody; people's stand. That the word is
    gone, or is none, says nothing; it is kept on disk; and going back is said."""
    etcd = Etcd()
    etcd.put({"instances/pets/hand": instance(81), "instances/pets/a": instance(82, agent="a")})
    etcd.put({"hosts/a/instances/pets/b": instance(83)})

    def shown(table: Table) -> list[str]:
        frame = table.frame("pets")
        return [each.id for each in frame.endpoints] if isinstance(frame, Stage) else []

    everything, believed = ["a", "b@a", "hand"], ["b@a", "hand"]
    assert etcd.put({"confirmed/hosts": {"state": "own"}}) == {"pets"} and shown(etcd.table) == everything
    assert etcd.table.forms.own
    assert etcd.put({"confirmed/hosts": {"state": "own_only"}}) == {"pets"} and shown(etcd.table) == believed
    assert "stand under hosts/" in etcd.table.inward[f"{P}instances/pets/a"]
    for nothing in (None, b"?", {"state": "elsewhere"}, {}):
        assert etcd.put({"confirmed/hosts": nothing}) == set() and shown(etcd.table) == believed
        assert etcd.table.forms.own and etcd.table.forms.stands is (nothing is not None)
    assert f"{P}confirmed/hosts" in etcd.table.malformed
    restarted = Table(KEYS, "here")
    restarted.apply([Change(key, value, 1) for key, value, _ in etcd.table.saved()], 1, source=DISK)
    assert shown(restarted) == believed and not restarted.forms.stands
    assert etcd.put({"confirmed/hosts": {"state": "common", "of": "a later version"}}) == {"pets"}
    assert shown(etcd.table) == everything and not etcd.table.forms.own and etcd.table.inward == {}


def test_where_agents_write_confirms_no_policy() -> None:
    """It stands beside that word, and is not it."""
    etcd = Etcd()
    etcd.put({f"policies/timeout/s{n}": {"request": "1s"} for n in range(8)})
    etcd.put({"confirmed/hosts": {"state": "own"}, **{f"policies/timeout/s{n}": None for n in range(8)}})
    assert len(etcd.table.distrusted.holding.holds) == 8


def test_what_is_malformed_has_a_bound() -> None:
    """Keys of a version that is not known yet, of a whole mesh; and what is gone, or mended, makes room."""
    etcd = Etcd()
    etcd.put({f"later/{n}{'x' * 5000}": b"?" for n in range(3000)})
    assert (len(etcd.table.malformed), etcd.table.malformed.unlisted) == (1000, 2000)
    assert sum(map(len, etcd.table.malformed)) <= 1000 * 1024
    etcd.put({f"later/{n}{'x' * 5000}": None for n in range(3000)})
    assert etcd.table.malformed == {}
    etcd.put({"later/1": b"?"})
    assert list(etcd.table.malformed) == [f"{P}later/1"]


def test_a_host_that_is_lost_leaves_suspects() -> None:
    """Under its own key, too; and they come back from disk as what they were."""
    etcd = Etcd()
    etcd.put({"agents/a": {"address": "10.0.0.9", "inbound_port": 1}, "hosts/a/instances/pets/1": instance(81)})
    etcd.delete("agents/a", "hosts/a/instances/pets/1")
    assert etcd.endpoints("pets")["1@a"].suspect
    restarted = Table(KEYS, "here")
    restarted.apply([Change(key, value, 1) for key, value, _ in etcd.table.saved()], 1)
    frame = restarted.frame("pets")
    assert isinstance(frame, Stage) and [(each.id, each.agent) for each in frame.endpoints] == [("1@a", "a")]


def test_a_service_that_is_gone_is_said_to_be_gone() -> None:
    """The last instance takes the service with it, a while later, unless somebody wrote a policy for its name."""
    etcd = Etcd()
    etcd.put({"instances/pets/a": instance()})
    assert etcd.delete("instances/pets/a") == {"pets"}
    assert etcd.table.departed.forget(KEEP_S + 1) == {"pets"}
    assert etcd.table.frame("pets") == Gone("pets")
    assert etcd.put({"policies/route/pets": ROUTE}) == {"pets"}
    assert isinstance(etcd.table.frame("pets"), Stage)
    assert etcd.delete("policies/route/pets") == {"pets"}
    assert etcd.table.departed.forget(KEEP_S + 1) == {"pets"}
    assert etcd.table.frame("pets") == Gone("pets")
    assert etcd.table.services == {}


def test_a_name_that_was_known_a_while_ago_is_not_unknown() -> None:
    """Callers are told that it has no endpoint; whatever it was known by. What comes back
    is as before; what was never known, stays unknown."""
    etcd = Etcd()
    etcd.put({"instances/pets/a": instance(), "policies/route/cats": ROUTE, "health/dogs/a": {"healthy": True}})
    etcd.delete("instances/pets/a", "policies/route/cats", "health/dogs/a")
    for name in ("pets", "cats"):
        frame = etcd.table.frame(name)
        assert isinstance(frame, Stage) and frame.endpoints == []
    assert etcd.table.frame("dogs") == Gone("dogs")
    assert etcd.table.departed.forget(KEEP_S) == set()
    etcd.put({"instances/pets/a": instance()})
    assert etcd.table.departed.forget(KEEP_S + 1) == {"cats"}
    assert list(etcd.endpoints("pets")) == ["a"] and set(etcd.table.services) == {"pets"}


def test_a_suspect_that_ends_leaves_its_name() -> None:
    """A minute from when it ended."""
    etcd = Etcd()
    etcd.delete("agents/there", "health/s0/a", *full_mesh(etcd))
    for identity in "ab":
        etcd.table.drop_suspect("s1", identity, 1000.0)
    assert etcd.table.departed.forget(1000.0 + KEEP_S) == set()
    assert etcd.table.departed.forget(1001.0 + KEEP_S) == {"s1"}


def test_names_without_end_are_forgotten_earlier() -> None:
    """Those that went first."""
    services = {f"s{n}": Service() for n in range(MOST + 2)}
    departed = Departed(services)
    for name, service in services.items():
        service.policies = 1
        departed.settle(name, 0)
        service.policies = 0
        departed.settle(name, 0)
    assert departed.forget(1) == {"s0", "s1"}
    assert len(services) == MOST


def test_instances_of_another_hosts_agent_are_dialled_through_it() -> None:
    """Owned elsewhere: that agent's inbound listener. Owned here, by nobody, or by an agent that left: direct."""
    etcd = Etcd("here")
    etcd.put({
        "agents/there": {"address": "10.0.0.9", "inbound_port": 15006},
        "instances/pets/far": instance(agent="there"),
        "instances/pets/near": instance(agent="here"),
        "instances/pets/free": instance(),
        "instances/pets/lost": instance(agent="left"),
    })  # fmt: skip
    found = etcd.endpoints("pets")
    assert (found["far"].dial_address, found["far"].dial_port, found["far"].via) == ("10.0.0.9", 15006, True)
    assert all(not found[id].via and found[id].dial_port == 80 for id in ("near", "free", "lost"))


def test_an_agent_touches_what_it_owns() -> None:
    """A moved or departed agent re-sends the services it owns instances of; an agent that only says more does not."""
    etcd = Etcd()
    agent = {"address": "10.0.0.9", "inbound_port": 15006}
    etcd.put({"instances/a/1": instance(agent="there"), "instances/b/1": instance(agent="other")})
    assert etcd.put({"agents/there": agent}) == {"a"}
    assert etcd.put({"agents/there": {**agent, "boot": "2"}}) == set()
    assert etcd.put({"agents/there": {**agent, "inbound_port": 7}}) == {"a"}
    assert etcd.delete("agents/there") == {"a"}
    etcd.delete("instances/a/1")
    assert etcd.put({"agents/there": agent}) == set()


@pytest.mark.parametrize(
    ("pattern", "touched"),
    [("*", {"a.x", "b.x", "a.y"}), ("*.x", {"a.x", "b.x"}), ("a.x", {"a.x"}), ("a/x", {"a.x"}), ("*.z", set())],
)
def test_a_policy_touches_what_its_pattern_covers(pattern: str, touched: set[str]) -> None:
    """`*` touches all, a namespace its services, a name itself."""
    etcd = Etcd()
    etcd.put({f"instances/{name}/1": instance() for name in ("a.x", "b.x", "a.y")})
    assert etcd.put({f"policies/timeout/{pattern}": b"connect: 2s"}) == touched
    assert etcd.delete(f"policies/timeout/{pattern}") == touched


def test_the_most_specific_policy_wins_whole() -> None:
    """Exact before namespace before mesh, kind by kind; what is more specific and goes away uncovers the next."""
    etcd = Etcd()
    etcd.put({"instances/pets.production/1": instance()})
    etcd.put({"policies/timeout/*": b"connect: 1s", "policies/route/pets.production": ROUTE})
    etcd.put({"policies/timeout/*.production": b"connect: 2s"})
    policies = etcd.table.frame("pets.production").policies
    assert {kind: policy.key for kind, policy in policies.items()} == {
        "timeout": "*.production",
        "route": "pets.production",
    }
    assert json.loads(policies["timeout"].text) == {"connect": "2s"}
    etcd.delete("policies/timeout/*.production")
    assert etcd.table.frame("pets.production").policies["timeout"].key == "*"


BAD_POLICIES = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"nonsense": 1}',
    b"x" * (2 << 20),
    b'{"connect": -1}',
    b'{"connect": []}',
]


@pytest.mark.parametrize("bad", BAD_POLICIES, ids=lambda bad: repr(bad[:20]))
def test_a_bad_policy_never_replaces_a_good_one(bad: bytes) -> None:
    """The last good one stays in force, the refusal is kept with its revision, and mending or deleting clears it."""
    etcd = Etcd()
    etcd.put({"instances/pets/1": instance()})
    etcd.put({"policies/timeout/pets": b"connect: 2s"})
    good = etcd.revision
    assert etcd.put({"policies/timeout/pets": bad}) == set()
    refused = etcd.table.refused["timeout", "pets"]
    assert (refused.last_good, refused.revision) == (good, etcd.revision)
    assert refused.reason
    assert etcd.table.frame("pets").policies["timeout"].revision == good
    assert etcd.put({"policies/timeout/pets": b"connect: 3s"}) == {"pets"}
    assert etcd.table.refused == {}
    etcd.put({"policies/timeout/pets": bad})
    etcd.delete("policies/timeout/pets")
    assert etcd.table.refused == {}
    assert etcd.table.frame("pets").policies == {}


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    """A misspelt kind is a policy that is not in force, so it is told."""
    etcd = Etcd()
    etcd.put({"policies/rout/pets": ROUTE})
    assert "did you mean 'route'?" in etcd.table.refused["rout", "pets"].reason
    assert etcd.table.refused["rout", "pets"].last_good == 0


BAD_INSTANCES = [
    b"",
    b"{",
    b"\xff",
    b"[1]",
    b'{"address": "10.0.0.1"}',
    b'{"address": "10.0.0.1", "port": 0}',
    b'{"address": "10.0.0.1", "port": "80"}',
    b'{"address": "localhost", "port": 80}',
    b'{"address": "10.0.0.999", "port": 80}',
    b'{"address": "0.0.0.0", "port": 80}',
    b'{"address": "10.0.0.1", "port": 80, "weight": 1e308}',
    b'{"address": "10.0.0.1", "port": 80, "weight": -1}',
    b'{"address": "10.0.0.1", "port": 80, "family": "ipv6"}',
    b" " * (2 << 20),
]


@pytest.mark.parametrize("bad", BAD_INSTANCES, ids=lambda bad: repr(bad[:60]))
def test_a_malformed_record_never_replaces_a_good_one(bad: bytes) -> None:
    """An instance that lies about itself keeps the record it had; the key is told with the reason until mended."""
    etcd = Etcd()
    etcd.put({"instances/pets/1": instance(80)})
    etcd.put({"instances/pets/1": bad, "instances/pets/2": bad})
    assert list(etcd.endpoints("pets")) == ["1"]
    assert set(etcd.table.malformed) == {P + "instances/pets/1", P + "instances/pets/2"}
    etcd.put({"instances/pets/1": instance(81)})
    assert etcd.endpoints("pets")["1"].port == 81
    etcd.delete("instances/pets/2")
    assert etcd.table.malformed == {}


@pytest.mark.parametrize(
    "key",
    [
        "instances/../etc/passwd",
        "instances/pets/../../x",
        "instances/pets/",
        "instances/pets",
        "instances//a",
        "instances/a/b/c/d/e/f/g",
        "policies/route/",
        "policies/../x",
        "health/pets/a/../b",
        "agents/a/b",
        "nonsense/x",
        "instances/pets/" + "x" * 200,
        "instances/pets/\udcff",
    ],
)
def test_a_key_that_names_nothing_is_told_and_otherwise_ignored(key: str) -> None:
    """Names with `/../`, extra segments and other garbage touch nothing; the agent goes on."""
    etcd = Etcd()
    assert etcd.put({key: instance()}) == set()
    assert [*etcd.table.malformed, *(refused.key for refused in etcd.table.refused.values())] == [P + key]
    etcd.delete(key)
    assert (etcd.table.malformed, etcd.table.refused) == ({}, {})


def test_weight_zero_and_a_large_service_pass() -> None:
    """A weight of 0 is a choice, and 5,000 instances are a service like any other."""
    etcd = Etcd()
    etcd.put({f"instances/pets/{n}": instance(n + 1, weight=0) for n in range(5000)})
    frame = etcd.table.frame("pets")
    assert len(frame.endpoints) == 5000
    assert frame.endpoints[0].weight == 0


def test_two_spellings_of_a_key_are_one() -> None:
    """`pets/production` means `pets.production`; the canonical spelling wins while it stands, in any order."""
    for order in itertools.permutations(["pets/production", "pets.production"]):
        etcd = Etcd()
        etcd.put({"instances/pets.production/1": instance()})
        for name in order:
            etcd.put({f"policies/timeout/{name}": {"connect": 1 if name == "pets.production" else 2}})
        frame = etcd.table.frame("pets.production")
        assert json.loads(frame.policies["timeout"].text) == {"connect": 1}
        assert [key for key, _ in etcd.table.shadowed()] == [P + "policies/timeout/pets/production"]
        etcd.delete("policies/timeout/pets.production")
        assert json.loads(etcd.table.frame("pets.production").policies["timeout"].text) == {"connect": 2}
        assert etcd.table.shadowed() == []
        etcd.delete("policies/timeout/pets/production")
        assert etcd.table.frame("pets.production").policies == {}


def test_health_policies_are_controls_own() -> None:
    """They are no business of the workers; the most specific enforced one says how instances are checked."""
    etcd = Etcd()
    etcd.put({"instances/pets/1": instance()})
    assert etcd.put({"policies/health/*": b"tcp: {}"}) == set()
    assert etcd.table.frame("pets").policies == {}
    assert "health" in etcd.table.in_force.of("pets", all_kinds=True)
    assert isinstance(etcd.table.in_force.health_policy("pets"), HealthPolicy)
    etcd.put({"policies/health/pets": b'{"tcp": {}, "mode": "audit"}'})
    wide = etcd.table.in_force.health_policy("pets")
    assert isinstance(wide, HealthPolicy) and wide.service == "*", "what is only watched displaces nothing"
    etcd.delete("policies/health/*")
    assert etcd.table.in_force.health_policy("pets") is None


# Mass deletion.


def full_mesh(etcd: Etcd, **more: Any) -> list[str]:
    keys = [f"instances/s{n}/{i}" for n in range(3) for i in "ab"]
    etcd.put({"agents/there": {"address": "10.0.0.9", "inbound_port": 15006}})
    etcd.put({key: instance(agent="there", **more) for key in keys})
    etcd.put({"health/s0/a": {"healthy": False}})
    return keys


def test_a_mass_deletion_leaves_suspects() -> None:
    """Everything vanishes at once: the endpoints stay, marked, and are dialled as before."""
    etcd = Etcd()
    keys = full_mesh(etcd)
    before = {f"s{n}": etcd.endpoints(f"s{n}") for n in range(3)}
    assert etcd.delete("agents/there", "health/s0/a", *keys) == {"s0", "s1", "s2"}
    for name, endpoints in before.items():
        now = etcd.endpoints(name)
        assert {id: e.dial_port for id, e in now.items()} == {id: e.dial_port for id, e in endpoints.items()}
        assert all(e.suspect and e.via for e in now.values())
    assert not etcd.endpoints("s0")["a"].healthy
    assert len(list(etcd.table.suspects)) == 6


def test_a_suspect_ends_when_its_record_returns_or_its_probe_fails() -> None:
    """The record that comes back replaces it; a probe's word drops it, and with the last one the service."""
    etcd = Etcd()
    etcd.delete("agents/there", "health/s0/a", *full_mesh(etcd))
    assert etcd.put({"instances/s0/a": instance(99)}) == {"s0"}
    assert [e.suspect for e in etcd.endpoints("s0").values()] == [False, True]
    assert etcd.table.drop_suspect("s0", "b") == {"s0"}
    assert etcd.table.drop_suspect("s0", "b") == set()
    assert etcd.table.drop_suspect("s1", "a") | etcd.table.drop_suspect("s1", "b") == {"s1"}
    assert etcd.endpoints("s1") == {}
    assert {suspect.service for suspect in etcd.table.suspects} == {"s2"}


@pytest.mark.parametrize(
    "deleted",
    [["instances/s0/a"], ["instances/s0/a", "instances/s0/b"], ["instances/s0/a", "instances/s1/a", "instances/s2/a"]],
    ids=["one", "one service", "half, but no service is emptied"],
)
def test_ordinary_deletions_are_believed(deleted: list[str]) -> None:
    """One key, one service, a rolling restart: etcd's word is taken."""
    etcd = Etcd()
    full_mesh(etcd)
    etcd.delete(*deleted)
    assert list(etcd.table.suspects) == []


def test_who_was_draining_is_believed_to_be_gone() -> None:
    """A host that is taken down in order says so before, however much of the mesh it is."""
    etcd = Etcd()
    etcd.delete(*full_mesh(etcd, state="draining"))
    assert list(etcd.table.suspects) == []


# What is restored, and what does not depend on order.


def test_a_restored_table_is_the_same_table() -> None:
    """What goes to disk makes, applied to a new table, the same frames."""
    etcd = Etcd()
    full_mesh(etcd)
    etcd.put({"policies/timeout/*": b"connect: 2s", "policies/route/s1": ROUTE, "policies/health/*": b"tcp: {}"})
    etcd.put({"policies/timeout/*": b"nonsense"})
    again = Table(KEYS, "here")
    again.apply([Change(*entry) for entry in etcd.table.saved()], etcd.revision)
    assert [again.frame(f"s{n}") for n in range(3)] == [etcd.table.frame(f"s{n}") for n in range(3)]
    assert again.in_force.health_policy("s0") == etcd.table.in_force.health_policy("s0")


def test_a_restart_keeps_the_last_good_policy() -> None:
    """The first snapshot after a restart has the bad document; the good one from disk stays; what is gone is gone."""
    etcd = Etcd()
    etcd.put({"instances/a/1": instance(), "instances/b/1": instance(), "instances/b/2": instance()})
    etcd.put({"policies/timeout/a": b"connect: 2s", "policies/timeout/pets/x": b"connect: 2s"})
    again = Table(KEYS, "here")
    again.apply([Change(*entry) for entry in etcd.table.saved()], etcd.revision)
    snapshot = {"instances/a/1": instance(), "policies/timeout/a": b"?", "policies/timeout/pets/x": b"?"}
    again.apply([Change(P + key, as_bytes(value), 90) for key, value in snapshot.items()], 91, whole=True)
    assert again.departed.forget(KEEP_S + 1) == {"b"}
    assert set(again.services) == {"a", "pets.x"}
    assert json.loads(again.frame("a").policies["timeout"].text) == {"connect": "2s"}
    assert again.frame("pets.x").policies["timeout"].revision == etcd.revision
    assert again.refused["timeout", "a"].last_good == etcd.revision


@given(STEPS)
def test_frames_sent_for_touched_services_are_enough(steps: list[tuple[str, Any]]) -> None:
    """Whatever happens, a receiver that is only sent what was touched holds what the table would say of everything."""
    etcd = Etcd()
    sent: dict[str, Any] = {}
    for key, value in steps:
        for name in etcd.put({key: value}):
            sent[name] = etcd.table.frame(name)
    for name in {"a", "b.x"} | set(etcd.table.services):
        now = etcd.table.frame(name)
        got = sent.get(name, Gone(name))
        assert _whenever(now) == _whenever(got)
    assert etcd.table.instance_count == sum(len(s.instances) for s in etcd.table.services.values())


def test_no_record_leads_to_where_an_agent_listens() -> None:
    """Whoever put it: it is no endpoint, and it is said why. What is dialled by way of another agent is one."""
    own = OwnPorts([("admin", ("127.0.0.1", 15000))], lambda address, port: table.places.agent_at(address, port))
    table = Table(KEYS, "here", own)

    def put(values: dict[str, Any], revision: int) -> set[str]:
        changes = [
            Change(P + key, None if value is None else json.dumps(value).encode(), revision)
            for key, value in values.items()
        ]
        return table.apply(changes, revision)

    def endpoints(name: str) -> list[str]:
        return [endpoint.id for endpoint in table.frame(name).endpoints]

    put({
        "instances/pets/good": {"address": "127.0.0.1", "port": 80, "agent": "here"},
        "instances/pets/admin": {"address": "127.0.0.1", "port": 15000},
        "instances/pets/mapped": {"address": "::ffff:127.0.0.1", "port": 15000, "agent": "here"},
        "instances/pets/later": {"address": "127.0.0.1", "port": 16006},
        "instances/pets/theirs": {"address": "127.0.0.1", "port": 81, "agent": "there"},
        "instances/pets/inward": {"address": "127.0.0.1", "port": 82, "agent": "liar"},
        "agents/liar": {"address": "127.0.0.1", "inbound_port": 15000},
    }, 1)  # fmt: skip
    assert endpoints("pets") == ["good", "later", "theirs"]
    assert set(table.inward) == {P + f"instances/pets/{id}" for id in ("admin", "mapped", "inward")}
    assert "this agent's own admin listener" in table.inward[P + "instances/pets/admin"]
    assert put({"agents/there": {"address": "127.0.0.1", "inbound_port": 16006}}, 2) == {"pets"}
    assert endpoints("pets") == ["good", "theirs"], "another agent listens there now"
    assert "the agent on 'there'" in table.inward[P + "instances/pets/later"]
    assert put({"agents/there": None}, 3) == {"pets"}
    assert endpoints("pets") == ["good", "later", "theirs"]
    put({f"instances/pets/{id}": None for id in ("good", "admin", "mapped", "later", "theirs", "inward")}, 4)
    assert table.inward == {} and [suspect.id for suspect in table.suspects] == ["theirs"]
