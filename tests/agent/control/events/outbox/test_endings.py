"""Whether what was opened has ended, by what is so; and when that is told."""

from __future__ import annotations

from typing import Any

import pytest

from agent.control.events.outbox.endings import Ending, ending_of
from agent.control.events.outbox.opened import Memories, Memory
from agent.control.events.settling import GRACE_S, Settling
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.records import Agent, Health, Instance, Malformed, Opened, Record, decode, encode
from registry.store import Change

KEYS = Keys()
PETS = "pets.production"
OPENED = Opened(event="boot1-local-3", type="io.shoal.x", service=PETS)


def agent(boot: str = "boot1") -> Agent:
    return Agent(address="10.0.0.1", inbound_port=15006, boot=boot)


def table(**more: bytes) -> Table:
    """One agent, one unhealthy instance of it, policies for it."""
    made = Table(KEYS, "web-9")
    instance = Instance(address="10.0.0.1", port=80, agent="web-1")
    records: dict[str, Record] = {
        KEYS.agent("web-1"): agent(),
        KEYS.instance(PETS, "a"): instance,
        KEYS.health(PETS, "a"): Health(healthy=False),
    }
    put = {key: encode(record) for key, record in records.items()}
    put[KEYS.policy("breaker", "*")] = b'{"trip": {"consecutive": 5}}'
    put[KEYS.policy("shed", PETS)] = b"{}"
    put[KEYS.policy("retry", PETS)] = put[KEYS.audit("retry", PETS)] = b'{"attempts": "three"}'
    made.apply([Change(key, value, n) for n, (key, value) in enumerate({**put, **more}.items(), 2)], 20)
    return made


def change(made: Table, key: str, value: Record | bytes | None) -> None:
    data = encode(value) if isinstance(value, Record) else value
    made.apply([Change(key, data, made.revision + 1)], made.revision + 1)


LASTING = {
    f"instances/{PETS}/a": (),
    f"services/{PETS}": (f"services/{PETS}",),
    f"policies/retry/{PETS}": (),
    f"audits/retry/{PETS}": (),
    "agents/web-7": ("agents/web-7",),
    f"breakers/{PETS}/a/web-1": (),
    f"breakers/{PETS}/*/web-1": (),
    f"shedding/{PETS}/web-1": (),
    "unheard/of/a/newer/version": (),
}


@pytest.mark.parametrize("subject", LASTING)
def test_what_lasts(subject: str) -> None:
    """Nothing is said of it."""
    made = table()
    assert made.refused, "else the policy is none that is refused"
    assert ending_of(subject, OPENED, made, LASTING[subject]) is None


@pytest.mark.parametrize(
    ("subject", "key", "value", "name"),
    [
        (f"instances/{PETS}/a", KEYS.health(PETS, "a"), Health(healthy=True), "instance.healthy"),
        (f"instances/{PETS}/a", KEYS.instance(PETS, "a"), None, "instance.gone"),
        (f"instances/{PETS}/other-port", KEYS.agent("x"), None, "instance.gone"),
        ("instances/nobody/a", KEYS.agent("x"), None, "instance.gone"),
        (f"services/{PETS}", KEYS.health(PETS, "a"), Health(healthy=True), "service.recovered"),
        (f"policies/retry/{PETS}", KEYS.policy("retry", PETS), b'{"attempts": 3}', "policy.changed"),
        (f"policies/retry/{PETS}", KEYS.policy("retry", PETS), None, "policy.changed"),
        (f"audits/retry/{PETS}", KEYS.audit("retry", PETS), b'{"attempts": 3}', "policy.changed"),
        (f"audits/retry/{PETS}", KEYS.audit("retry", PETS), None, "policy.changed"),
        ("agents/web-1", KEYS.agent("x"), None, "agent.joined"),
        ("agents/decommissioned", KEYS.agent("x"), None, "agent.joined"),
        ("etcd/web-1", KEYS.agent("x"), None, "etcd.back"),
        (f"breakers/{PETS}/a/web-1", KEYS.agent("web-1"), agent("boot2"), "breaker.closed"),
        (f"breakers/{PETS}/a/gone", KEYS.agent("x"), None, "breaker.closed"),
        (f"breakers/{PETS}/*/web-1", KEYS.policy("breaker", "*"), None, "breaker.closed"),
        (f"breakers/{PETS}/a/web-1", KEYS.instance(PETS, "a"), None, "breaker.closed"),
        (f"shedding/{PETS}/web-1", KEYS.agent("web-1"), agent("boot2"), "shed.ended"),
        (f"shedding/{PETS}/web-1", KEYS.policy("shed", PETS), None, "shed.ended"),
    ],
)
def test_however_it_ends(subject: str, key: str, value: Any, name: str) -> None:
    """By the type of event that tells it."""
    made = table()
    change(made, key, value)
    found = ending_of(subject, OPENED, made, ())
    assert found is not None and found.name == name


def test_of_what_is_only_not_known_nothing_is_said() -> None:
    """A host that does not answer may live, and with it its instance and its breakers."""
    made = table()
    revision = made.revision + 1
    lost = [KEYS.agent("web-1"), KEYS.instance(PETS, "a"), KEYS.health(PETS, "a")]
    made.apply([Change(key, None, revision) for key in lost], revision)
    assert (PETS, "a") in made.suspects
    for subject in (f"instances/{PETS}/a", f"services/{PETS}", f"breakers/{PETS}/a/web-1", f"shedding/{PETS}/web-1"):
        assert ending_of(subject, OPENED, made, ()) is None
    made.drop_suspect(PETS, "a")
    assert ending_of(f"instances/{PETS}/a", OPENED, made, ()) is not None


# When.


def found(settling: Settling, now: float, memory: Memory, *, waits: bool = False, over: bool = True) -> list[str]:
    ending = Ending("instance.gone", "it went") if over else None
    events = settling.find(now, {"instances/p/a": memory}, lambda key: waits, lambda subject, memory: ending)
    return [f"{event.name} {event.id} {event.key}" for event in events]


def test_events_have_the_first_word() -> None:
    """What is over is told when no event of it has come for a while, once; and again when that could not be told."""
    settling, memory = Settling("default", "web-1"), Memory(OPENED, 5)
    assert found(settling, 0, memory) == found(settling, GRACE_S - 1, memory) == []
    assert found(settling, GRACE_S, memory, waits=True) == [], "its event is on the way: the time begins anew"
    assert found(settling, GRACE_S + 1, memory) == found(settling, 2 * GRACE_S, memory) == []
    told = ["instance.gone boot1-local-3-over default/instances/p/a"]
    assert found(settling, 2 * GRACE_S + 1, memory) == told
    assert found(settling, 2 * GRACE_S + 2, memory) == []
    assert found(settling, 2 * GRACE_S + 3602, memory) == told


def test_what_lasts_or_is_closed_is_not_told() -> None:
    """Whatever time passes."""
    settling = Settling("default", "web-1")
    closed = Memory(Opened(event="e", type="t", state="closed"), 5)
    for now in (0.0, 100.0, 1e6):
        assert found(settling, now, Memory(OPENED, 5), over=False) == found(settling, now, closed) == []


# What is remembered.


def test_what_was_just_written_is_known_before_the_watch_tells() -> None:
    """And what the watch tells late changes nothing."""
    memories = Memories()
    rest = f"opened/{PETS}/issues/instances/{PETS}/a"
    label, subject = f"{PETS}/issues", f"instances/{PETS}/a"
    older, newer = (Opened(event=name, type="t") for name in ("old", "new"))
    memories.take(rest, Change("", encode(older), 3))
    memories.note(label, subject, newer, 7)
    memories.take(rest, Change("", encode(older), 5))
    assert memories.find(label, subject) == Memory(newer, 7) and list(memories.labels()) == [label]
    memories.note(label, subject, None, 9)
    memories.take(rest, Change("", encode(newer), 7))
    assert memories.find(label, subject) is None
    memories.take(rest, Change("", None, 9))
    memories.take(rest, Change("", encode(older), 10))
    assert memories.find(label, subject) == Memory(older, 10)
    memories.take(rest, Change("", None, 11))
    assert not memories.of(label) and list(memories.labels()) == []


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"[]", b"{}", b'{"event": 5, "type": "t"}'])
def test_garbage_counts_as_nothing(garbage: bytes) -> None:
    """It is looked for then."""
    memories = Memories()
    memories.take("opened/p/h/agents/x", Change("", garbage, 3))
    memories.take("opened/p", Change("", garbage, 3))
    assert list(memories.labels()) == []
    with pytest.raises(Malformed):
        decode(Opened, garbage)


def test_what_a_newer_agent_tells_besides_is_ignored() -> None:
    """Versions live side by side."""
    assert decode(Opened, b'{"event": "e", "type": "t", "colour": "red"}') == Opened(event="e", type="t")
