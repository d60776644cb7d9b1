"""Updates of etcd in, lines out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.watching.changes import Document
from agent.cli.watching.following import Following
from agent.cli.watching.judging import Judges
from agent.cli.watching.line import Line
from agent.cli.watching.outgoing import A_SECOND, MOST_HELD
from agent.cli.watching.selection import Selection
from registry.keys import Keys
from registry.mirror import Update
from registry.records import Ack, Agent, Health, Held, Instance, Record, Rejection, encode
from registry.store import Change

KEYS = Keys()
ROUTE = KEYS.policy("route", "pets.production")
AT = 1_795_543_200.0


class Watcher:
    """A mesh of two agents that somebody watches; a clock that stands."""

    def __init__(self, selection: Selection | None = None, *, agents: str = "ab") -> None:
        self.now = 100.0
        self.revision = 10
        self.following = Following("default", selection or Selection(), Judges().judge)
        words = [(KEYS.agent(host), agent()) for host in agents] + [
            (KEYS.ack(host), Ack(revision=10)) for host in agents
        ]
        self.hear(*words, resync=True)
        (self.first,) = self.lines()

    def hear(self, *changes: tuple[str, object], resync: bool = False, another: str = "") -> None:
        """A revision of changes: records, bytes, or None."""
        self.revision += 1
        made = [
            Change(key, encode(value) if isinstance(value, Record) else value, self.revision)  # type: ignore[arg-type]
            for key, value in changes
        ]
        self.following.hear(Update(self.revision, made, resync, another), AT, self.now)

    def acks(self, **revisions: int) -> None:
        self.hear(*((KEYS.ack(host), Ack(revision=revision)) for host, revision in revisions.items()))

    def lines(self, after_s: float = 1.0) -> list[Line]:
        """What is told by then."""
        self.now += after_s
        return self.following.take(AT, self.now)

    def texts(self, after_s: float = 1.0) -> list[str]:
        return [f"{line.what}: {line.text}" for line in self.lines(after_s)]


def agent(**more: Any) -> Agent:
    return Agent(**{"address": "10.0.0.1", "inbound_port": 15006, "version": "0.3", "boot": "1", **more})


def test_what_stands_is_a_number() -> None:
    """And who lags already is named."""
    assert Watcher().first.text == (
        "watching the mesh default: 0 policies, 0 instances, 2 agents (a, b); not yet at revision 11: a runs 10, "
        "b runs 10; Ctrl-C ends it"
    )


def test_a_document_from_the_put_to_the_last_host() -> None:
    """By whom, why, and when it is in force where."""
    watcher = Watcher()
    watcher.hear((ROUTE, b'{"active": "v1", "by": "ada", "reason": "a canary"}'))
    put = watcher.revision
    assert watcher.texts(0.5) == ["policy: route/pets.production was put, by ada: a canary"]
    watcher.acks(a=put)
    (behind,) = watcher.lines(1.0)
    assert behind.text == "on 1 of 2 hosts after 1.5 s (a); b runs 10: route/pets.production"
    assert behind.record()["lagging"] == {"b": 10} and behind.revision == put
    watcher.acks(b=put + 3)
    assert watcher.texts(0.0) == [], "a refusal may come behind agents' word"
    (reached,) = watcher.lines(1.0)
    assert reached.text == "on 2 of 2 hosts after 1.5 s: route/pets.production" and watcher.following.ended is True
    assert reached.record()["after_s"] == 1.5 and json.dumps(reached.record())
    watcher.hear((ROUTE, b'{"active": "v1", "by": "ada", "reason": "a canary"}'))
    watcher.hear((ROUTE, None))
    assert watcher.texts(0.1) == [
        "policy: route/pets.production was put again as it was, by ada: a canary",
        "policy: route/pets.production was removed",
    ]
    watcher.acks(a=99, b=99)
    assert watcher.texts() == [
        "in_force: on 2 of 2 hosts after 0.1 s: route/pets.production; replaced since: "
        "route/pets.production, which was removed",
        "in_force: on 2 of 2 hosts after 0.1 s: route/pets.production",
    ]


def test_a_document_that_is_refused_is_not_in_force() -> None:
    """By what this version knows, and by an agent's word, which is believed without that."""
    watcher = Watcher()
    watcher.hear((ROUTE, b'{"activ": "v1"}'))
    watcher.acks(a=99, b=99)
    texts = watcher.texts()
    assert texts[0].startswith("policy: route/pets.production was put; it is refused: $: no field 'activ'")
    assert texts[1] == "reached: 2 of 2 hosts after 0.0 s, and is refused: route/pets.production"
    assert watcher.following.ended is False

    watcher = Watcher()
    watcher.hear((ROUTE, b'{"active": "v1"}'))
    put = watcher.revision
    watcher.acks(a=99, b=99)
    refusal = Rejection(path="$", reason="no", revision=put, agent="a", at="", last_good=7)
    watcher.hear((KEYS.rejection("route", "pets.production"), refusal))
    watcher.hear((KEYS.rejection("route", "pets.production"), None))
    texts = watcher.texts(0.0)
    assert texts[1:] == [
        f"refused: route/pets.production of revision {put} is refused: $: no; that of revision 7 stays in force "
        "(says a)",
        "refused: route/pets.production is refused no more",
    ]


@pytest.mark.parametrize("key", ["policies/retry/pets.*", "policies/Retry/pets", "policies/route"])
def test_a_key_that_names_nothing_is_told(key: str) -> None:
    """A `*` in the wrong place is easily overlooked."""
    watcher = Watcher(Selection(only=frozenset({"policies"})))
    watcher.hear((KEYS.prefix + key, b"{}"))
    watcher.acks(a=99, b=99)
    told, reached = watcher.texts()
    assert "names nothing" in told and "is refused" in reached
    watcher.hear((KEYS.prefix + key, None))
    assert "was removed" in watcher.texts(0.1)[0]


def test_instances_come_turn_and_go() -> None:
    """With what is different; under whichever key they stand."""
    key, health = KEYS.instance("pets.production", "pets-1@web-1"), KEYS.health("pets.production", "pets-1@web-1")
    instance = Instance(address="::1", port=80, version="v1", zone="eu")
    watcher = Watcher()
    watcher.hear((key, instance), (health, Health(healthy=True)))
    watcher.hear((health, Health(healthy=False, reason="status 500")))
    watcher.hear((key, Instance(address="::1", port=80, version="v2", zone="eu", state="draining")))
    watcher.hear((health, None))
    watcher.hear((health, Health(healthy=True)))
    watcher.hear((key, None), (health, None))
    watcher.hear((key, b"{"))
    assert watcher.texts(0.1) == [
        "instance: pets.production/pets-1 came: [::1]:80, v1, zone eu, on web-1",
        "health: pets.production/pets-1 is healthy",
        "health: pets.production/pets-1 is unhealthy: status 500",
        "instance: pets.production/pets-1 changed: version v1 → v2, state serving → draining",
        "health: pets.production/pets-1: nobody says whether it is healthy",
        "health: pets.production/pets-1 is healthy",
        "instance: pets.production/pets-1 went, drained, from web-1",
        "instance: instances/pets.production/pets-1@web-1 cannot be read: $: not JSON: Input data was truncated",
    ]
    watcher.acks(a=99, b=99)
    (reached,) = watcher.lines(0.1)
    both = "pets.production/pets-1, instances/pets.production/pets-1@web-1"
    assert reached.text == f"on 2 of 2 hosts after 0.1 s: {both} (8 changes)", "together, for none is a document"


def test_an_instance_that_died_is_told_apart_from_one_that_left() -> None:
    """A newcomer comes before its health is told of, and is not ill; whoever goes ill says why, whatever goes first."""
    key, health = KEYS.instance("pets", "a"), KEYS.health("pets", "a")
    record = Instance(address="10.0.0.1", port=80, agent="web-1")
    draining = Instance(address="10.0.0.1", port=80, agent="web-1", state="draining")
    newcomer = Health(healthy=False, reason="not checked yet")
    for gone, how in ((Health(healthy=False, reason="killed"), "; it was unhealthy: killed"), (newcomer, "")):
        watcher = Watcher(Selection(only=frozenset({"instances"})))
        watcher.hear((health, newcomer), (key, record))
        assert watcher.texts(0.1) == [
            "instance: pets/a came: 10.0.0.1:80, on web-1",
            "health: pets/a is not checked yet",
        ]
        watcher.hear((health, gone), (key, draining))
        watcher.lines(0.1)
        watcher.hear((health, None))
        watcher.hear((key, None))
        (went,) = [text for text in watcher.texts(0.1) if " went" in text]
        assert went == f"instance: pets/a went{'' if how else ', drained'}, from web-1{how}"


def test_agents_come_and_go() -> None:
    """In order, or without a word; and what people say of the mesh."""
    watcher = Watcher()
    watcher.hear((KEYS.agent("c"), agent()))
    watcher.hear((KEYS.agent("a"), agent(stopping=True)))
    watcher.hear((KEYS.agent("a"), None), (KEYS.ack("a"), None))
    watcher.hear((KEYS.agent("b"), None), (KEYS.ack("b"), None))
    watcher.hear((KEYS.identity("hosts", "c"), b"{}"), (KEYS.confirmed, b'{"at": "", "by": "ada"}'))
    held = Held(revision=7, reason="another etcd")
    watcher.hear((KEYS.held("retry", "pets"), held), (f"{KEYS.prefix}conditions/x", b""), (f"{KEYS.prefix}odd/x", b""))
    assert watcher.texts(0.1) == [
        "agent: the agent of c came: 10.0.0.1, 0.3",
        "agent: the agent of a is stopping",
        "agent: the agent of a went, in order",
        "agent: the agent of b is gone, without a word",
        "mesh: identity/hosts/c was put",
        "mesh: confirmed/policies was put, by ada",
        "policy: retry/pets of revision 7 is held in force, against what etcd says: another etcd",
    ]
    assert "c has not said what it runs" in watcher.texts(1.0)[0]
    watcher.hear((KEYS.agent("c"), None))
    assert "reached: nobody, for no agent is alive" in watcher.texts(0.1)[1] and watcher.following.ended is False


@pytest.mark.parametrize(
    ("selection", "seen"),
    [
        (Selection("pets.production"), ["route/pets.production", "retry/*", "pets.production/1"]),
        (Selection("*.production"), ["route/pets.production", "retry/*", "pets.production/1"]),
        (Selection("pets.staging"), ["retry/*"]),
        (Selection(kinds=frozenset({"retry"})), ["retry/*"]),
        (Selection("pets.production", only=frozenset({"instances"})), ["pets.production/1"]),
        (Selection("pets.staging", only=frozenset({"agents", "mesh"})), ["c", "identity/hosts/c"]),
    ],
)
def test_what_is_not_asked_for_is_not_told(selection: Selection, seen: list[str]) -> None:
    """Nor waited for; a policy for all services counts for each."""
    watcher = Watcher(selection)
    watcher.hear(
        (ROUTE, b"{}"),
        (KEYS.policy("retry", "*"), b"{}"),
        (KEYS.instance("pets.production", "1"), Instance(address="10.0.0.1", port=80)),
        (KEYS.agent("c"), agent()),
        (KEYS.identity("hosts", "c"), b"{}"),
    )
    lines = watcher.lines(0.1)
    names = [line.more.get("document") or line.more.get("key") or line.text.split(" came")[0] for line in lines]
    assert [name.removeprefix("the agent of ") for name in names] == seen


def test_a_flood_is_bounded_and_hides_no_document() -> None:
    """What was left out is counted, with its revisions, and waited for."""
    watcher = Watcher()
    for number in range(3000):
        watcher.hear((KEYS.instance("pets", str(number)), Instance(address="10.0.0.1", port=80)))
    watcher.hear((ROUTE, b'{"active": "v1"}'))
    lines = watcher.lines(1.0)
    kinds = [line.what for line in lines]
    assert kinds.count("instance") == A_SECOND and kinds.count("policy") == 1
    (left,) = [line for line in lines if line.what == "left_out"]
    assert left.more["lines"] == {"instance": 3000 - A_SECOND} and left.note
    assert (left.more["first"], left.more["last"]) == (12 + A_SECOND, 3011)
    watcher.acks(a=9999, b=9999)
    reached = [line for line in watcher.lines() if line.what == "in_force"]
    assert sum(line.more["changes"] for line in reached) == 3001


def test_who_does_not_read_costs_no_memory() -> None:
    """An hour of a thousand changes a second in small; what is held is bounded, the rest counted."""
    watcher = Watcher()
    for second in range(60):
        watcher.now += 1.0
        for number in range(150):
            watcher.hear((KEYS.instance("pets", f"{second}-{number}"), Instance(address="10.0.0.1", port=80)))
    lines = watcher.lines(1.0)
    assert len(lines) <= MOST_HELD + 1 and sum(lines[-1].more["lines"].values()) >= 60 * 150 - MOST_HELD


def test_a_history_with_a_gap_is_told_as_one() -> None:
    """After a compaction, or a long absence: what is as it was is no change, though it is all read again."""
    watcher = Watcher()
    watcher.hear((ROUTE, b'{"active": "v1"}'))
    put = Change(ROUTE, b'{"active": "v1"}', watcher.revision)
    watcher.acks(a=99, b=99)
    assert len(watcher.lines()) == 2
    changes = [put, Change(KEYS.policy("retry", "pets"), b"{}", 98)]
    watcher.following.hear(Update(99, changes, True), AT, watcher.now)
    texts = watcher.texts(0.1)
    assert texts[0].startswith("etcd: some of the history is missing") and len(texts) == 2
    assert texts[1] == "policy: retry/pets was put"


def test_another_etcd_is_a_new_beginning() -> None:
    """What stands there is none of what was watched."""
    watcher = Watcher()
    watcher.hear((ROUTE, b'{"active": "v1"}'))
    watcher.lines(0.1)
    watcher.hear(
        (KEYS.agent("z"), agent()), (ROUTE, b"{}"), (KEYS.agent("a"), None), resync=True, another="its id is 7"
    )
    told, first = watcher.texts(5.0)
    assert "another etcd (its id is 7)" in told and "1 policy, 0 instances, 1 agent (z)" in first


def test_what_an_agent_of_another_version_does_not_know_is_told() -> None:
    """As its judge says; then it is not in force everywhere."""
    following = Following("default", Selection(), lambda *_: Document(not_enforced="it is not enforced by web-3 (0.1)"))
    following.hear(Update(10, [Change(KEYS.agent("a"), encode(agent()), 9)], True), AT, 0.0)
    following.hear(Update(11, [Change(ROUTE, b"{}", 11)], False), AT, 0.0)
    following.hear(Update(12, [Change(KEYS.ack("a"), encode(Ack(revision=11)), 12)], False), AT, 0.5)
    line = following.take(AT, 2.0)[-1]
    assert (
        line.what == "reached"
        and line.text == "on 1 of 1 host after 0.5 s: route/pets.production; it is not enforced by web-3 (0.1)"
    )
    assert following.ended is False


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{" * 5000, b"null", b'{"by": 7, "reason": {}}', b"by: [a"])
def test_garbage_is_a_line(value: bytes) -> None:
    """Under every key that is watched."""
    watcher = Watcher()
    keys = [ROUTE, KEYS.audit("nothing", "pets"), KEYS.instance("pets", "1"), KEYS.health("pets", "1"), KEYS.agent("a")]
    keys += [KEYS.rejection("route", "pets"), KEYS.held("route", "pets"), KEYS.confirmed, KEYS.ack("a"), KEYS.ack("b")]
    watcher.hear(*((key, value) for key in keys))
    lines = watcher.lines(0.1)
    assert len(lines) == len(keys) - 2 and all(json.dumps(line.record()) and line.plain() for line in lines)
    watcher.hear(*((key, None) for key in keys))
    assert all(json.dumps(line.record()) for line in watcher.lines())


def test_a_line_is_short() -> None:
    """Whatever somebody wrote into a document."""
    watcher = Watcher()
    watcher.hear((ROUTE, json.dumps({"active": "v1", "by": "a" * 256, "reason": "b" * 1024}).encode()))
    (line,) = watcher.lines(0.1)
    assert len(line.plain()) < 400 and line.record()["reason"] == "b" * 1024
