"""What workers are told of a table that changes: no more than what changed, and nothing that is outdated already."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import framing
from agent.control.mesh.departed import KEEP_S
from agent.control.mesh.table_frames import TableFrames
from agent.frames import Change, Commit, Gone, Stage, ToWorker, Where
from agent.portions import SLICE
from agent.proxy.table.table import Table as WorkerTable
from tests.support.tables import STEPS, Etcd, instance


class Mesh:
    """A table of control's, and its frames."""

    def __init__(self) -> None:
        self.etcd = Etcd()
        self.frames = TableFrames(self.etcd.table)
        self.frames.known = True

    def put(self, values: dict[str, Any]) -> None:
        self.etcd.put(values)
        self.frames.changed()

    def flap(self, key: str, times: int) -> None:
        for n in range(times):
            self.put({f"health/{key}": {"healthy": n % 2 == 1}})


def named(told: list[ToWorker]) -> list[str]:
    return [str(frame.__struct_config__.tag) for frame in told]


def only(told: list[ToWorker]) -> Change:
    change, commit = told
    assert isinstance(change, Change) and isinstance(commit, Commit)
    return change


@pytest.mark.parametrize("count", [10, 20, 1000])
def test_a_flap_is_one_endpoint_however_many_there_are(count: int) -> None:
    """What goes to each worker is as long for a thousand instances as for ten."""
    mesh = Mesh()
    mesh.put({f"instances/pets/{n:04}": instance(1000 + n) for n in range(count)})
    feed = mesh.frames.feed()
    assert named(feed.take(parts=True)) == ["service", "agents", "commit"]
    mesh.flap("pets/0003", 1)
    told = feed.take(parts=True)
    change = only(told)
    assert [(e.id, e.healthy) for e in change.endpoints] == [("0003", False)]
    assert (change.gone, change.policies, change.more) == ([], None, False)
    assert len(b"".join(map(framing.encode, told))) < 300


def test_what_changed_often_is_told_once_as_it_is_by_then() -> None:
    """A worker that takes nothing while 301 flaps happen hears of one; and of the newest revision."""
    mesh = Mesh()
    mesh.put({f"instances/pets/{n}": instance(1000 + n) for n in range(50)})
    feed = mesh.frames.feed()
    feed.take(parts=True)
    mesh.flap("pets/7", 301)
    change, commit = feed.take(parts=True)
    assert isinstance(change, Change) and isinstance(commit, Commit)
    assert [(e.id, e.healthy) for e in change.endpoints] == [("7", False)]
    assert commit.revision == change.revision == mesh.etcd.table.revision
    assert feed.take(parts=True) == []


def test_many_services_at_once() -> None:
    """Each with its own instance, in one commit: a revision is in force whole."""
    mesh = Mesh()
    mesh.put({f"instances/s{s}/{n}": instance(1000 + n) for s in range(30) for n in range(10)})
    feed = mesh.frames.feed()
    feed.take(parts=True)
    for s in range(30):
        mesh.flap(f"s{s}/{s % 10}", 3)
    *changes, commit = feed.take(parts=True)
    assert isinstance(commit, Commit)
    found = {c.name: [e.id for e in c.endpoints] for c in changes if isinstance(c, Change)}
    assert found == {f"s{s}": [str(s % 10)] for s in range(30)}


def test_workers_take_at_their_own_pace() -> None:
    """What one has taken the other is told still; and the memory of what it is not told is that of the services."""
    mesh = Mesh()
    mesh.put({f"instances/pets/{n}": instance(1000 + n) for n in range(3)})
    quick, slow = mesh.frames.feed(), mesh.frames.feed()
    quick.take(parts=True), slow.take(parts=True)
    for n in range(100):
        mesh.flap(f"pets/{n % 3}", 1)
        assert only(quick.take(parts=True)).endpoints[0].id == str(n % 3)
    assert [e.id for e in only(slow.take(parts=True)).endpoints] == ["0", "1", "2"]
    quick.close()
    mesh.flap("pets/1", 1)
    assert not quick.due.services and slow.due.services


def test_a_policy_changes_no_endpoint() -> None:
    """Only the documents are told, of every service that it covers; the text of a pattern once."""
    mesh = Mesh()
    mesh.put({f"instances/s{s}/{n}": instance(1000 + n) for s in range(3) for n in range(10)})
    feed = mesh.frames.feed()
    feed.take(parts=True)
    mesh.put({"policies/timeout/*": b'{"connect": 1}'})
    *changes, _ = feed.take(parts=True)
    texts = []
    for change in changes:
        assert isinstance(change, Change) and not change.endpoints and change.policies
        texts.append(change.policies["timeout"].text)
    assert sorted(map(bool, texts)) == [False, False, True]


def test_an_agent_that_moves_touches_what_it_owns() -> None:
    """Of a service with instances of two hosts only one host's are told again."""
    mesh = Mesh()
    mesh.put({f"agents/h{n}": {"address": f"10.0.0.{n}", "inbound_port": 1} for n in (1, 2)})
    mesh.put({f"instances/pets/{n}": instance(1000 + n, agent=f"h{1 + n % 2}") for n in range(10)})
    feed = mesh.frames.feed()
    feed.take(parts=True)
    mesh.put({"agents/h1": {"address": "10.0.0.9", "inbound_port": 1}})
    change, where, commit = feed.take(parts=True)
    assert isinstance(change, Change) and isinstance(where, Where) and isinstance(commit, Commit)
    assert {(e.id, e.dial_address) for e in change.endpoints} == {(str(n), "10.0.0.9") for n in range(0, 10, 2)}


def test_much_at_once_is_cut() -> None:
    """A worker serves requests in between."""
    mesh = Mesh()
    many = range(2 * SLICE + 5)
    mesh.put({f"instances/pets/{n}": instance(1000 + n) for n in many})
    feed = mesh.frames.feed()
    feed.take(parts=True)
    mesh.put({f"health/pets/{n}": {"healthy": False} for n in many})
    *changes, _ = feed.take(parts=True)
    assert [(len(c.endpoints), c.more) for c in changes if isinstance(c, Change)] == [
        (SLICE, True), (SLICE, True), (5, False)
    ]  # fmt: skip


def test_who_understands_no_changes_is_told_of_services_as_a_whole() -> None:
    """A worker of the version before."""
    mesh = Mesh()
    mesh.put({f"instances/pets/{n}": instance(1000 + n) for n in range(3)})
    feed = mesh.frames.feed()
    feed.take(parts=False)
    mesh.flap("pets/1", 5)
    stage, _ = feed.take(parts=False)
    assert isinstance(stage, Stage) and [e.healthy for e in stage.endpoints] == [True, False, True]


def test_nothing_is_told_before_the_table_counts() -> None:
    """And then everything."""
    mesh = Mesh()
    mesh.frames.known = False
    mesh.put({"instances/pets/1": instance()})
    feed = mesh.frames.feed()
    assert feed.take(parts=True) == []
    mesh.frames.known = True
    assert named(feed.take(parts=True)) == ["service", "agents", "commit"]


def test_a_service_that_goes_and_comes_is_told_whole() -> None:
    """Between two looks it may have been another; between one and the next it was gone."""
    mesh = Mesh()
    mesh.put({"instances/pets/1": instance()})
    feed = mesh.frames.feed()
    feed.take(parts=True)
    mesh.put({"instances/pets/1": None})
    emptied, _ = feed.take(parts=True)
    assert isinstance(emptied, Change) and emptied.gone == ["1"], "a name that was known stays for a while"
    mesh.etcd.table.forget_departed(KEEP_S + 1)
    mesh.frames.changed()
    gone, _ = feed.take(parts=True)
    assert gone == Gone("pets")
    mesh.put({"instances/pets/2": instance(2)})
    stage, _ = feed.take(parts=True)
    assert isinstance(stage, Stage) and [e.id for e in stage.endpoints] == ["2"]


def shown(table: WorkerTable) -> dict[str, Any]:
    return {
        name: (
            sorted(
                (e.id, e.port, e.healthy, e.draining, e.suspect, e.dial, e.via) for e in service.plan.endpoints
            ),
            sorted(service.plan.local),
            {kind: (policy.key, policy.revision) for kind, policy in service.plan.policies.items()},
            sorted(e.id for e in service.plan.balancer.candidates()),
            sorted(service.members) == sorted(e.id for e in service.plan.endpoints),
        )
        for name, service in table.services.items()
    }  # fmt: skip


def take(table: WorkerTable, told: list[ToWorker]) -> None:
    for frame in told:
        if isinstance(frame, Stage):
            assert table.stage(frame.name, frame.revision, frame.endpoints, frame.policies, 0.0) == []
        elif isinstance(frame, Change):
            found = table.change(
                frame.name, frame.revision, frame.endpoints, frame.gone, frame.policies, 0.0, more=frame.more
            )
            assert found == []
        elif isinstance(frame, Gone):
            table.gone(frame.name)
        elif isinstance(frame, Commit):
            table.commit(frame.revision)


@given(STEPS, st.sets(st.integers(0, 29)))
def test_changes_come_to_the_same_as_the_whole(steps: list[tuple[str, Any]], looks: set[int]) -> None:
    """Whatever happens, and whenever it looks, a worker that is told changes runs what one runs that begins anew."""
    mesh, table = Mesh(), WorkerTable()
    feed = mesh.frames.feed()
    for n, (key, value) in enumerate(steps):
        mesh.put({key: value})
        if n in looks:
            take(table, feed.take(parts=True))
    take(table, feed.take(parts=True))
    fresh = WorkerTable()
    take(fresh, mesh.frames.feed().take(parts=False))
    assert shown(table) == shown(fresh)
    assert table.revision == mesh.etcd.table.revision
