"""Events: how one is made, that it can always be written, and that the CloudEvents SDK reads back what was meant."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from cloudevents.v1.http import CloudEvent, from_http
from hypothesis import given
from hypothesis import strategies as st

from agent.events import MAX_TEXT, binary, cut, identify, identify_local, make, sample, structured, to_cloudevent
from policies.kinds.webhook.event import BY_NAME, COMMON, TYPES, Effect, Event, Value, parts_of, selected

PAGE = (Path(__file__).parents[2] / "docs/events.md").read_text()
TEXT = st.text() | st.text(st.characters(categories=["Cs", "Cc", "Lu"])) | st.just("x" * 9000)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
NAMES = st.sampled_from(sorted(BY_NAME))


def event(name: str = "instance.unhealthy", data: dict[str, Value] | None = None, link: str = "") -> Event:
    parts = dict.fromkeys(parts_of(BY_NAME[name].subject), "pets.production")
    return make(name, id=identify(255, 7, 0), time="2026-01-02T03:04:05Z", mesh="m", parts=parts, data=data, link=link)


@given(name=NAMES, values=st.lists(VALUES, min_size=4, max_size=4), link=TEXT)
def test_both_modes_are_read_back_by_the_sdk(name: str, values: list[Value], link: str) -> None:
    """Attributes and data, whatever a program said."""
    link = "http://x/" + "".join(c for c in link if c.isprintable() and not "\ud800" <= c <= "\udfff")
    made = event(name, dict(zip(COMMON, values, strict=True)), link)
    for headers, body in (structured(made), binary(made)):
        assert all(value.isascii() and value.isprintable() for value in headers.values())
        read: CloudEvent = from_http(headers, body)
        assert (read["id"], read["type"], read["source"]) == (made.id, f"io.shoal.{name}", "/shoal/m")
        assert (read["subject"], read["mesh"], read["key"]) == (made.subject, "m", made.key)
        assert read["specversion"] == "1.0" and read["time"].startswith("2026-01-02")
        assert read.data == made.data
    assert from_http(*structured(made))["link"] == link


@given(name=NAMES, values=st.lists(VALUES, min_size=4, max_size=4))
def test_what_is_made_can_be_stored(name: str, values: list[Value]) -> None:
    """And is the same when it is read."""
    made = event(name, dict(zip(COMMON, values, strict=True)))
    assert msgspec.json.decode(msgspec.json.encode(made), type=Event) == made


def test_extension_names_are_ones() -> None:
    """CloudEvents 1.0, naming: lower-case letters and digits, at most twenty; no empty values."""
    made = to_cloudevent(event("agent.lost"))
    assert all(re.fullmatch(r"[a-z0-9]{1,20}", name) for name in made)
    assert "service" not in made and "link" not in made
    assert made["datacontenttype"] == "application/json"


def test_five_mebibytes_of_reason_are_cut_with_a_mark() -> None:
    """So that an event stays an event."""
    reason = event(data={"reason": "x" * 5 * 2**20}).data["reason"]
    assert isinstance(reason, str)
    assert len(reason) == MAX_TEXT and reason.endswith("x… [cut, 5242880 characters]")


@given(text=st.text(), limit=st.integers(0, 50))
def test_a_cut_is_never_longer_than_asked(text: str, limit: int) -> None:
    """And does nothing to what is short."""
    made = cut(text, limit)
    assert len(made) <= limit and (made == text or len(text) > limit)


def test_ids_come_from_the_revision() -> None:
    """So every agent names an event alike."""
    assert identify(0xCDF818194E3A8C32, 1042, 0) == "cdf818194e3a8c32-1042-0"
    assert identify_local("b00t", 3) == "b00t-local-3"


def test_what_ends_a_condition_has_the_key_of_what_opens_it() -> None:
    """So an issue is found again."""
    for opens, ends in (
        ("instance.unhealthy", "instance.healthy"),
        ("instance.unhealthy", "instance.gone"),
        ("service.down", "service.recovered"),
        ("policy.refused", "policy.changed"),
        ("agent.lost", "agent.joined"),
        ("etcd.unreachable", "etcd.back"),
        ("breaker.opened", "breaker.closed"),
        ("shed.started", "shed.ended"),
    ):
        assert event(opens).key == event(ends).key
        assert event(opens).effect is Effect.OPENS
        assert event(ends).effect in (Effect.CLOSES, Effect.ENDS)


def test_conditions_of_different_kinds_never_share_a_key() -> None:
    """Or one would close the other's issue."""
    forms: dict[str, set[str]] = {}
    for kind in TYPES:
        forms.setdefault(kind.subject.partition("/")[0], set()).add(kind.subject)
    assert all(len(found) == 1 for found in forms.values())


@pytest.mark.parametrize(
    ("name", "parts", "data", "said"),
    [
        ("instance.ill", {}, {}, "no event type 'instance.ill'"),
        ("service.down", {}, {}, r"service.down: \[\] are not the parts of services/{service}"),
        ("service.down", {"service": "a/b"}, {}, "'a/b' cannot be the service of a subject"),
        ("service.down", {"service": "a"}, {"why": 1}, r"no data field \['why'\]; there are: before, after, reason"),
    ],
)
def test_a_mistake_in_the_calling_code_is_seen(
    name: str, parts: dict[str, str], data: dict[str, Value], said: str
) -> None:
    """At once, and not by a receiver."""
    with pytest.raises(ValueError, match=said):
        make(name, id="1-1-1", time="", mesh="m", parts=parts, data=data)


def test_titles_are_sentences() -> None:
    """Of every type; of one that is not in the table the subject and the type."""
    for kind in TYPES:
        assert "{" not in sample(kind.name).title
    assert sample("instance.unhealthy").title == "pets.production: instance web-1-8080 is unhealthy"
    newer = msgspec.structs.replace(sample(), type="io.shoal.moon.full")
    assert newer.title == "instances/pets.production/web-1-8080: moon.full" and newer.effect is Effect.TELLS


def test_patterns() -> None:
    """With and without the prefix; a digest is nobody's choice."""
    assert selected(["instance.*"]) == {n for n in BY_NAME if n.startswith("instance.")}
    assert selected(["io.shoal.service.down", "moon.full"]) == {"service.down"}
    assert selected(["*"]) == set(BY_NAME) - {"hook.digest"}
    assert selected(["hook.digest"]) == frozenset()


def test_the_page_has_the_whole_table() -> None:
    """In order, with effect, subject, meaning and fields."""
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)` \| ([a-z]+) \| `([^`]+)` \| ([^|]+) \| ([^|]*) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (kind.name, kind.effect.value, kind.subject, kind.meaning, ", ".join(f"`{f}`" for f in kind.data) or "")
        for kind in TYPES
    ]


def test_the_page_shows_what_is_sent() -> None:
    """The example is what the code makes."""
    shown = re.search(r"```json\n(\{.*?\n\})\n```", PAGE, re.DOTALL)
    assert shown is not None
    found = json.loads(shown[1])
    made = make(
        "instance.unhealthy",
        id=found["id"],
        time=found["time"],
        mesh="default",
        parts={"service": "pets.production", "instance": "web-1-8080"},
        data=found["data"],
    )
    made = msgspec.structs.replace(made, key=f"cdf818194e3a8c32-5f2a81c0/{made.key}")  # as delivery makes it
    assert to_cloudevent(made) == found
