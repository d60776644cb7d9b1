"""Where events stand, and whose word is believed of what. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agent.control.events.outbox.sources import Sources, speaker_of
from agent.control.mesh.layout import Forms
from agent.events import make
from policies.kinds.webhook.event import TYPES, Event, parts_of
from registry.keys import Key, Keys
from registry.store import Change

KEYS = Keys()


class Told:
    """What was heard of one mesh."""

    def __init__(self, state: str = "own_only", said_at: int = 10) -> None:
        forms = Forms({})
        word = json.dumps({"state": state, "rooms": ["events", "reports"]}).encode()
        assert forms.take(Change(KEYS.layout, word, said_at)) is None
        self.sources = Sources(forms)

    def put(self, key: str, value: Any, revision: int = 20, created: int = 20) -> None:
        parsed = KEYS.parse(key)
        assert isinstance(parsed, Key)
        text = None if value is None else json.dumps(value).encode()
        self.sources.take(parsed, Change(key, text, revision, created))

    def event(self, host: str, made: Event, first: str = "word") -> None:
        puts = [(KEYS.own_event(host, made.id), {"event": msgspec.to_builtins(made)})]
        puts.insert(0 if first == "entry" else 1, (KEYS.event(made.id), {"host": host}))
        for key, value in puts:
            self.put(key, value)


def ill(host: str = "web-1", id: str = "1") -> Event:
    parts = {"service": "pets.production", "instance": f"a@{host}"}
    return make("instance.unhealthy", id=id, time="2026-01-01T00:00:00Z", mesh="default", parts=parts)


@pytest.mark.parametrize("first", ["word", "entry"])
def test_both_parts_make_an_event(first: str) -> None:
    """Whichever is heard first, and whatever came of it is kept."""
    told = Told()
    told.event("web-1", ill(), first)
    assert told.sources.over("web-1") == []
    told.put(KEYS.event("1"), {"host": "web-1", "done": {"*/a": "status 200"}}, revision=21)
    standing = told.sources.standing("1")
    assert standing is not None
    assert (standing.event, standing.host, standing.revision) == (ill(), "web-1", 21)
    assert standing.done == {"*/a": "status 200"}


@pytest.mark.parametrize("missing", ["word", "entry"])
def test_one_part_makes_none(missing: str) -> None:
    """An entry whose event is gone, and an event that is told, which is for its host to clear away, and no other."""
    told = Told()
    told.event("web-1", ill())
    told.put(KEYS.event("1") if missing == "entry" else KEYS.own_event("web-1", "1"), None)
    assert told.sources.standing("1") is None
    assert told.sources.over("web-1") == (["1"] if missing == "entry" else [])
    assert told.sources.over("web-2") == []
    told.put(KEYS.own_event("web-1", "1"), None)
    assert told.sources.over("web-1") == [] and told.sources.hosts() == []


def test_what_one_host_says_of_another() -> None:
    """Is told to nobody, and it is known whose word it was; what that one says itself is told."""
    told = Told()
    told.event("evil", ill("web-1"))
    assert told.sources.standing("1") is None
    assert told.sources.disbelieved == {"1": "evil tells what web-1 alone can tell"}
    told.put(KEYS.event("1"), None)
    assert told.sources.disbelieved == {}
    told.event("web-1", ill("web-1"))
    assert told.sources.standing("1") is not None


def test_an_entry_cannot_lend_anothers_word() -> None:
    """An event of web-1 about itself, told as evil's: there is none under evil's key."""
    told = Told()
    told.event("web-1", ill("web-1"))
    told.put(KEYS.event("1"), {"host": "evil"})
    assert told.sources.standing("1") is None


@pytest.mark.parametrize(
    ("state", "created", "believed"),
    [("own_only", 9, True), ("own_only", 11, False), ("own", 11, True), ("common", 11, True)],
)
def test_what_stands_whole(state: str, created: int, believed: bool) -> None:
    """What was put before the mesh moved, or while it moved, is told; later there is none."""
    told = Told(state)
    whole = {"event": msgspec.to_builtins(ill())}
    told.put(KEYS.event("1"), whole, revision=30, created=created)
    assert (told.sources.standing("1") is not None) is believed


def test_who_alone_can_tell() -> None:
    """Of every type there is: what its subject names a host for, but whether an agent lives."""
    about = {}
    for kind in TYPES:
        parts = dict.fromkeys(parts_of(kind.subject), "x") | {"instance": "a@web-1", "host": "web-1"}
        event = ill()
        subject = kind.subject.format_map(parts)
        about[kind.name] = speaker_of(msgspec.structs.replace(event, type=f"io.shoal.{kind.name}", subject=subject))
    anybody = {name for name, host in about.items() if not host}
    assert anybody == {
        *("instance.registered", "instance.gone", "service.down", "service.recovered", "agent.lost", "agent.joined"),
        *("policy.refused", "policy.held", "policy.changed", "hook.digest", "scale.advised"),
    }
    assert set(about.values()) == {"", "web-1"}
    assert speaker_of(msgspec.structs.replace(ill(), subject="instances/pets.production/a")) == "", "by its old name"
    assert speaker_of(msgspec.structs.replace(ill(), type="io.shoal.of.tomorrow")) == ""


@pytest.mark.parametrize("value", ["?", "[]", "{}", '{"event": 3}', '{"host": "web-1", "event": {"id": 1}}'])
def test_garbage_is_told_to_nobody(value: str) -> None:
    """At either key, and what comes later is told."""
    told = Told()
    for key in (KEYS.own_event("web-1", "1"), KEYS.event("1")):
        parsed = KEYS.parse(key)
        assert isinstance(parsed, Key)
        told.sources.take(parsed, Change(key, value.encode(), 20, 20))
    assert told.sources.standing("1") is None
    told.event("web-1", ill())
    assert told.sources.standing("1") is not None
