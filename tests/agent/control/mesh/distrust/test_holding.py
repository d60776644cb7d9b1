"""A restart never opens a door, etcd's included: what is held, against what, and what ends it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.control.mesh.distrust.source import DISK, Source
from agent.control.mesh.saved_table import SavedTable
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.records import Confirmed, Held, decode, encode
from registry.store import Change

KEYS = Keys()
NAMES = [f"s{n}" for n in range(12)]
OTHER = Source("its cluster id is 2, and was 1", resync=True, heard_at="2026-01-01T00:00:00.000Z")


class Etcd:
    """One etcd: what it has, and the changes that agents hear of."""

    def __init__(self, revision: int = 1) -> None:
        self.revision = revision
        self.keys: dict[str, Change] = {}

    def put(self, **values: Any) -> list[Change]:
        """Of policies: `s1="2s"`, or None for a delete; all in one revision."""
        return self.raw({KEYS.policy("timeout", name): document(value) for name, value in values.items()})

    def raw(self, values: dict[str, bytes | None]) -> list[Change]:
        self.revision += 1
        changes = []
        for key, value in values.items():
            before = self.keys.get(key)
            if value is None and before is None:
                continue
            created = before.created if before is not None else self.revision
            changes.append(Change(key, value, self.revision, created))
            if value is None:
                del self.keys[key]
            else:
                self.keys[key] = changes[-1]
        return changes

    def backup(self) -> Etcd:
        copied = Etcd(self.revision)
        copied.keys = dict(self.keys)
        return copied

    def everything(self) -> list[Change]:
        return list(self.keys.values())


class Agent:
    """A table, and what it hears."""

    def __init__(self, etcd: Etcd, *, disk: list[tuple[str, bytes, int]] = (), revision: int = 0) -> None:  # type: ignore[assignment]
        self.table = Table(KEYS, "here")
        if disk:
            self.table.apply([Change(*item) for item in disk], revision, source=DISK)
        self.etcd = etcd

    def restarted(self) -> Agent:
        """With what `SavedTable` keeps of it."""
        again = Agent(self.etcd, disk=list(self.table.saved()), revision=self.table.revision)
        again.table.distrusted.holding.known_revision = self.table.distrusted.holding.known_revision
        again.snapshot()
        return again

    def hear(self, changes: list[Change]) -> None:
        self.table.apply(changes, self.etcd.revision)

    def snapshot(self, source: Source | None = None) -> None:
        """The first one of a process."""
        self.table.apply(self.etcd.everything(), self.etcd.revision, whole=True, source=source or Source(resync=True))

    def moves_to(self, etcd: Etcd, source: Source = OTHER) -> None:
        """What the mirror makes of another etcd."""
        gone = [Change(key, None, etcd.revision) for key in self.etcd.keys if key not in etcd.keys]
        self.etcd = etcd
        self.table.apply([*gone, *etcd.everything()], etcd.revision, source=source)

    def knows(self, etcd: Etcd) -> bool:
        """Whether something of what is in force shows that an etcd has our history: the same document, put at the same
        revision. Revisions alone may be those of two histories."""
        documents = self.table.in_force.documents()
        stands = {at: etcd.keys.get(KEYS.policy(*at)) for at in documents}
        ours = {at: (document.revision, document.text) for at, document in documents.items()}
        return any(c is not None and (c.revision, c.value) == ours[at] for at, c in stands.items())

    @property
    def in_force(self) -> dict[str, str]:
        policies = self.table.policies.get("timeout", {})
        return {name: json.loads(policy.text)["connect"] for name, policy in policies.items()}

    @property
    def held(self) -> set[str]:
        return {pattern for _, pattern in self.table.distrusted.holding.holds}

    def write(self) -> None:
        """What it has to say goes to etcd, and comes back."""
        wanted = {
            KEYS.held(*place): None if hold is None else encode(hold)
            for place, hold in self.table.distrusted.holding.unsettled()
        }
        self.hear(self.etcd.raw(wanted))


def document(value: Any) -> bytes | None:
    return None if value is None else json.dumps({"connect": value}).encode()


def confirmed(at: str = "2026-06-01T00:00:00.000Z") -> dict[str, bytes | None]:
    return {KEYS.confirmed: encode(Confirmed(at=at))}


def known(count: int = 3) -> tuple[Etcd, Agent, dict[str, str]]:
    etcd = Etcd()
    agent = Agent(etcd)
    for name in NAMES[:count]:
        agent.hear(etcd.put(**{name: "1s"}))
    return etcd, agent, dict.fromkeys(NAMES[:count], "1s")


# Another etcd.


@pytest.mark.parametrize("count", [1, 3, 12])
def test_an_empty_etcd_takes_nothing_away(count: int) -> None:
    """However few they are."""
    _, agent, before = known(count)
    agent.moves_to(Etcd())
    assert agent.in_force == before and agent.held == set(before)


def test_an_older_etcd_brings_nothing_back() -> None:
    """Documents as they were, those that were deleted since, and those that were put since: as before the restore."""
    etcd, agent, _ = known(4)
    backup = etcd.backup()
    agent.hear(etcd.put(s0="9s"))
    agent.hear(etcd.put(s1=None))
    agent.hear(etcd.put(s7="7s"))
    before = agent.in_force
    agent.moves_to(backup)
    assert agent.in_force == before == {"s0": "9s", "s2": "1s", "s3": "1s", "s7": "7s"}
    assert agent.held == {"s0", "s1", "s7"}


def test_what_is_put_into_an_empty_etcd_takes_effect() -> None:
    """Also in the moment before an agent looks: an emergency is not blocked."""
    _, agent, before = known()
    fresh = Etcd()
    fresh.put(s0="5s")
    agent.moves_to(fresh)
    agent.hear(fresh.put(s1="6s"))
    agent.hear(fresh.put(s9="7s"))
    assert agent.in_force == {**before, "s0": "5s", "s1": "6s", "s9": "7s"}
    assert agent.held == {"s2"}
    agent.hear(fresh.put(s1=None))
    assert "s1" not in agent.in_force


def test_a_bad_document_ends_no_hold() -> None:
    """Neither one that stands there nor one that is put later: it would leave nothing in force."""
    _, agent, before = known()
    fresh = Etcd()
    fresh.put(s0=["?"])
    agent.moves_to(fresh)
    agent.hear(fresh.put(s1=["?"]))
    assert agent.in_force == before
    agent.hear(fresh.put(s1="2s"))
    assert agent.in_force["s1"] == "2s"


def test_what_refused_requests_goes_on_refusing() -> None:
    """Nobody knows what a rate limit was before a typo; an empty etcd does not know either."""
    key = KEYS.policy("ratelimit", "s0")
    agent = Agent(Etcd(50))
    agent.table.apply([Change(key, b'{"limitz": 5}', 40, 20)], 50)
    assert agent.table.in_force.closed["ratelimit"]
    agent.etcd.keys[key] = Change(key, b'{"limitz": 5}', 40, 20)
    agent.moves_to(Etcd())
    assert agent.table.in_force.closed["ratelimit"]


# One revision that takes much away.


@pytest.mark.parametrize(
    ("count", "deleted", "believed"), [(12, 12, False), (9, 5, False), (10, 5, True), (4, 4, True)]
)
def test_one_revision(count: int, deleted: int, believed: bool) -> None:
    """At least five, and over half."""
    etcd, agent, before = known(count)
    agent.hear(etcd.put(**dict.fromkeys(NAMES[:deleted])))
    assert (agent.in_force == before) is not believed
    assert len(agent.held) == (0 if believed else deleted)


def test_one_after_the_other_is_believed() -> None:
    """Each is the word of somebody about that key, also when they come in one batch."""
    etcd, agent, before = known(12)
    agent.hear([change for name in before for change in etcd.put(**{name: None})])
    assert agent.in_force == {} and agent.held == set()


def test_who_says_at_once_that_it_is_meant_is_believed() -> None:
    """As `shoal apply --prune` does, in the same revision."""
    etcd, agent, before = known(12)
    agent.hear(etcd.raw({**{KEYS.policy("timeout", name): None for name in before}, **confirmed()}))
    assert agent.in_force == {}


def test_what_went_while_the_agent_was_away() -> None:
    """A fresh snapshot tells it as one revision; with a restart in between, too."""
    etcd, agent, before = known(12)
    etcd.put(**dict.fromkeys(before))
    again = Agent(etcd, disk=list(agent.table.saved()), revision=agent.etcd.revision)
    again.snapshot()
    assert again.in_force == before and again.held == set(before)


# What ends it, and who holds.


def test_an_operator_confirms() -> None:
    """What stands in etcd is in force: nothing, another document, or what was deleted."""
    etcd, agent, _ = known(3)
    backup = etcd.backup()
    agent.hear(etcd.put(s0="9s"))
    agent.hear(etcd.put(s1=None))
    agent.moves_to(backup)
    agent.hear(backup.raw(confirmed()))
    assert agent.in_force == {"s0": "1s", "s1": "1s", "s2": "1s"} and agent.held == set()


@pytest.mark.parametrize(("at", "believed"), [("2026-06-01T00:00:00.000Z", True), ("2025-06-01T00:00:00.000Z", False)])
def test_a_confirmation_counts_for_who_comes_later(at: str, believed: bool) -> None:
    """When it is younger than what the agent last heard of the etcd before; one that was restored with it is not."""
    _, agent, before = known()
    fresh = Etcd()
    fresh.raw(confirmed(at))
    agent.moves_to(fresh)
    assert agent.in_force == ({} if believed else before)


def test_agents_that_start_meanwhile_hold_the_same() -> None:
    """With nothing on disk they learn it from etcd; what ends it for one ends it for all."""
    _, agent, before = known()
    fresh = Etcd()
    agent.moves_to(fresh)
    agent.write()
    late = Agent(fresh)
    late.snapshot()
    assert late.in_force == before and late.held == set(before)
    change = fresh.put(s0="5s")
    agent.hear(change)
    late.hear(change)
    assert agent.in_force == late.in_force == {**before, "s0": "5s"}
    change = fresh.raw(confirmed())
    agent.hear(change)
    late.hear(change)
    assert agent.in_force == late.in_force == {"s0": "5s"}
    agent.write()
    assert not any(key.startswith(KEYS.prefix + "held/") for key in fresh.keys)


def test_who_starts_in_the_moment_before_the_record_goes() -> None:
    """What was put and deleted has ended the hold, and its record stands a little longer: nobody brings it back."""
    _, agent, before = known()
    fresh = Etcd()
    agent.moves_to(fresh)
    agent.write()
    for value in ("5s", None):
        agent.hear(fresh.put(s0=value))
    late = Agent(fresh)
    late.snapshot()
    assert late.in_force == before
    (place, hold), *others = agent.table.distrusted.holding.unsettled()
    assert (place, hold, others) == (("timeout", "s0"), None, [])
    change = fresh.raw({KEYS.held(*place): None})
    agent.hear(change)
    late.hear(change)
    assert late.in_force == agent.in_force == {name: "1s" for name in before if name != "s0"}


def test_a_record_of_what_has_ended_is_not_believed() -> None:
    """It is about another document than the one that stands, or older than the operator's word."""
    fresh = Etcd()
    record = encode(Held(revision=640, document='{"connect": "1s"}'))
    fresh.raw({KEYS.held("timeout", "s0"): record, KEYS.held("timeout", "s1"): record})
    fresh.put(s0="5s")
    fresh.raw(confirmed())
    late = Agent(fresh)
    late.snapshot()
    assert late.in_force == {"s0": "5s"}
    late.write()
    assert KEYS.held("timeout", "s0") not in fresh.keys and KEYS.held("timeout", "s1") not in fresh.keys


@pytest.mark.parametrize("written", [False, True])
def test_a_restart_holds_on(written: bool) -> None:
    """The disk has it, whether etcd was told or not."""
    _, agent, before = known()
    fresh = Etcd()
    agent.moves_to(fresh)
    if written:
        agent.write()
    again = Agent(fresh, disk=list(agent.table.saved()), revision=fresh.revision)
    assert again.in_force == before
    again.snapshot()
    assert again.in_force == before and again.held == set(before)
    again.hear(fresh.put(s0="5s"))
    assert again.in_force["s0"] == "5s"


def test_what_ended_while_the_agent_was_away() -> None:
    """Others hold it no more: its record is gone."""
    _, agent, before = known()
    fresh = Etcd()
    agent.moves_to(fresh)
    agent.write()
    saved = list(agent.table.saved())
    change = fresh.put(s0="5s")
    agent.hear(change)
    agent.hear(fresh.put(s0=None))
    agent.write()
    again = Agent(fresh, disk=saved, revision=fresh.revision)
    again.snapshot()
    assert again.in_force == {name: value for name, value in before.items() if name != "s0"}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES[:6]), st.sampled_from(["1s", "2s", "3s"])),
        st.tuples(st.just("delete"), st.sampled_from(NAMES[:6]), st.just("")),
        st.tuples(
            st.sampled_from(["wipe", "restore", "backup", "all", "confirm", "restart", "write"]), *[st.just("")] * 2
        ),
    ),
    max_size=30,
)


def steps(text: str) -> list[tuple[str, str, str]]:
    """As the search makes them: `put s0 1s, backup, delete s0`."""
    return [(*each.split(), "", "")[:3] for each in text.split(", ")]  # type: ignore[misc]


@example(steps("put s0 1s, put s1 1s, backup, delete s0, wipe, restore"))
@example(steps("put s0 1s, put s1 1s, backup, delete s0, wipe, restart, restore"))
@example(steps("put s0 1s, put s1 1s, backup, delete s0, wipe, wipe, restore"))
@example(steps("put s0 1s, put s1 1s, backup, delete s0, put s0 2s, wipe, restore"))
@settings(max_examples=int(os.environ.get("EXAMPLES", 100)))
@given(STEPS)
def test_only_people_change_what_is_in_force(taken: list[tuple[str, str, str]]) -> None:
    """The model: single puts and deletes of what stands, and confirmations. Wiping, restoring, deleting all of it at
    once and restarting change nothing; who starts without a disk agrees with who was there."""
    etcd = Etcd()
    agent = Agent(etcd)
    agent.snapshot()
    backup = etcd.backup()
    model: dict[str, str] = {}
    for what, name, value in taken:
        stands = KEYS.policy("timeout", name) in etcd.keys if name else False
        if what == "put":
            agent.hear(etcd.put(**{name: value}))
            model[name] = value
        elif what == "delete" and stands:
            agent.hear(etcd.put(**{name: None}))
            model.pop(name, None)
        elif what == "backup":
            backup = etcd.backup()
        elif what == "wipe" or (what == "restore" and agent.knows(backup)):
            etcd = Etcd() if what == "wipe" else backup.backup()
            etcd.revision = max(etcd.revision, 1)
            agent.moves_to(etcd)
        elif what == "all":
            standing = dict.fromkeys(key for key in etcd.keys if "/policies/" in key)
            names = {key.rpartition("/")[2] for key in standing}
            free = names - agent.held
            believed = len(free) < 5 or 2 * len(free) <= len(agent.table.in_force.documents())
            for gone in names if believed else names - free:
                model.pop(gone, None)
            agent.hear(etcd.raw(dict(standing)))
        elif what == "confirm":
            agent.hear(etcd.raw(confirmed("2025-01-01T00:00:00.000Z")))
            model = {
                key.rpartition("/")[2]: json.loads(change.value or b"")["connect"]
                for key, change in etcd.keys.items()
                if "/policies/" in key
            }
        elif what == "restart":
            if any(hold is None for _, hold in agent.table.distrusted.holding.unsettled()):
                agent.write()  # what has ended is told at once
            agent = agent.restarted()
        elif what == "write":
            agent.write()
        assert agent.in_force == model, (what, name, value)
    agent.write()
    late = Agent(etcd)
    late.snapshot()
    assert late.in_force == agent.in_force


def test_an_older_backup_first_and_then_a_younger_one() -> None:
    """What was deleted stays deleted, though the older one stood at a lower revision than the younger."""
    etcd, agent, before = known(1)
    older = etcd.backup()
    agent.hear(etcd.put(s7="7s"))
    younger = etcd.backup()
    agent.hear(etcd.put(s7=None))
    agent.moves_to(older)
    agent.moves_to(younger)
    assert agent.in_force == before and agent.held == {"s7"}


def test_what_is_put_into_a_restored_etcd_later_than_all_that_was_known() -> None:
    """Is somebody's word, also where an empty etcd was between."""
    etcd, agent, before = known(2)
    backup = etcd.backup()
    agent.hear(etcd.put(s0=None))
    agent.moves_to(Etcd())
    for n in range(3):
        backup.put(s9=f"{n}s")
    agent.moves_to(backup)
    assert agent.in_force == {"s1": before["s1"], "s9": "2s"} and agent.held == {"s0"}


async def test_the_disk_keeps_up_to_where_etcds_were_known(tmp_path: Path) -> None:
    """A restart between the empty etcd and the restored one brings nothing back either."""
    etcd, agent, _ = known(2)
    backup = etcd.backup()
    agent.hear(etcd.put(s0=None))
    agent.moves_to(Etcd())
    SavedTable(agent.table, tmp_path / "table", KEYS, "default").write()
    again = Agent(Etcd())
    await SavedTable(again.table, tmp_path / "table", KEYS, "default").read()
    again.snapshot()
    again.moves_to(backup)
    assert again.in_force == {"s1": "1s"}


def test_the_record_says_what_is_held_against_what() -> None:
    """As people read it with etcdctl."""
    etcd, agent, _ = known(1)
    backup = etcd.backup()
    agent.hear(etcd.put(s0="9s"))
    agent.moves_to(backup)
    agent.write()
    change = backup.keys[KEYS.held("timeout", "s0")]
    assert decode(Held, change.value or b"") == Held(
        revision=3, document='{"connect": "9s"}', stands=2, reason="another etcd: its cluster id is 2, and was 1"
    )
