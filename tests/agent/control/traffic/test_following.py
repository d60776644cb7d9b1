"""Streams of requests that somebody follows: numbered, bounded, forgotten."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.asking.answering import Answering, Refusal
from agent.control.traffic import following, streams
from agent.control.traffic.following import Following
from agent.frames import Follow, Followed
from agent.requests.filter import Filter, Place, RequestsAsked, RequestsTold

HERE = "here"


class Scene:
    """One agent's, and what its workers are told."""

    def __init__(self, *, recorded: bool = False) -> None:
        self.told: list[Follow] = []
        self.answering = Answering(HERE, {})
        self.following = Following(HERE, self.answering, recorded=recorded)
        self.following.connect(self.told.extend)

    def read(self, place: Place | None = None, wanted: Filter | None = None, now: float = 0.0) -> RequestsTold:
        asked = RequestsAsked(wanted or Filter(), {HERE: place} if place is not None else {})
        return self.following.read(asked, now)

    def say(self, *lines: str, lost: int = 0, id: str | None = None) -> None:
        encoded = "".join(f"{line}\n" for line in lines).encode()
        name = id or next(iter(self.told[-1].filters))
        self.following.on_followed(Followed(name, len(lines), encoded, lost))


def test_who_begins_is_told_what_ends_from_then_on() -> None:
    """The workers hear of it once, however many ask for the same."""
    scene = Scene()
    first = scene.read()
    assert (first.lines, first.lost, first.begun) == (b"", 0, False) and first.place is not None
    assert list(scene.told[-1].filters.values()) == [Filter()] and len(scene.told) == 1
    scene.say("a", "b")
    late = scene.read()
    scene.say("c")
    second = scene.read(first.place)
    assert second.lines == b"a\nb\nc\n" and scene.read(late.place).lines == b"c\n"
    assert scene.read(second.place).lines == b"" and len(scene.told) == 1


def test_a_new_worker_is_told_who_follows() -> None:
    """And nothing where nobody does."""
    scene = Scene()
    assert scene.following.frames() == []
    scene.read(wanted=Filter(path="/a"))
    scene.read(wanted=Filter(path="/b"))
    (frame,) = scene.following.frames()
    assert sorted(each.path for each in frame.filters.values()) == ["/a", "/b"] and frame == scene.told[-1]


def test_who_does_not_ask_is_forgotten() -> None:
    """After FORGET_S the workers pick nothing for him; who comes back learns that he has missed something."""
    scene = Scene()
    place = scene.read(now=0.0).place
    scene.read(place, now=9.0)
    scene.following.forget(18.0)
    assert scene.following.filters == 1
    scene.following.forget(19.1)
    assert scene.following.filters == 0 and scene.told[-1].filters == {}
    scene.say("late", id="x")
    found = scene.read(place, now=20.0)
    assert found.begun and found.lines == b"" and found.place != place


def test_what_a_worker_lost_is_told_where_it_was() -> None:
    """And counted."""
    scene = Scene()
    place = scene.read().place
    scene.say("a", lost=3)
    scene.say("b")
    found = scene.read(place)
    assert (found.lines, found.lost) == (b"a\nb\n", 3)
    scene.say(lost=2)
    found = scene.read(found.place)
    assert (found.lines, found.lost) == (b"", 2) and scene.following.lost == 5


def test_a_slow_reader_learns_how_many_he_has_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring goes on without him, and others have everything."""
    monkeypatch.setattr(streams, "RING_BYTES", 40)
    scene = Scene()
    slow = quick = scene.read().place
    heard: list[bytes] = []
    for n in range(10):
        scene.say(f"line {n:04}", f"line {n:04}")
        found = scene.read(quick)
        quick = found.place
        heard += found.lines.splitlines()
        assert found.lost == 0
    assert len(heard) == 20
    found = scene.read(slow)
    assert len(found.lines.splitlines()) + found.lost == 20 and found.lost == 16
    assert scene.read(found.place) == msgspec.structs.replace(scene.read(found.place), lines=b"", lost=0)


def test_a_batch_that_is_too_large_is_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never an answer that nobody can read."""
    monkeypatch.setattr(streams, "MOST_BATCH_BYTES", 10)
    scene = Scene()
    place = scene.read().place
    scene.say("x" * 20, "y")
    scene.say("z")
    found = scene.read(place)
    assert (found.lines, found.lost) == (b"z\n", 2)


def test_an_answer_has_a_bound_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost between them."""
    monkeypatch.setattr(streams, "MOST_TOLD_BYTES", 10)
    scene = Scene()
    place = scene.read().place
    for n in range(5):
        scene.say(f"line {n}")
    heard = b""
    for _ in range(5):
        found = scene.read(place)
        place, heard = found.place, heard + found.lines
        assert found.lost == 0 and len(found.lines) <= 10
    assert heard.splitlines() == [b"line %d" % n for n in range(5)]


def test_so_many_filters_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words; those that are followed go on."""
    monkeypatch.setattr(following, "MOST_STREAMS", 2)
    scene = Scene()
    for path in ("/a", "/b"):
        scene.read(wanted=Filter(path=path))
    with pytest.raises(Refusal, match="2 filters are followed here already"):
        scene.read(wanted=Filter(path="/c"))
    assert scene.read(wanted=Filter(path="/a")).place is not None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=30))
def test_nothing_is_lost_uncounted(steps: list[tuple[int, int, bool]]) -> None:
    """Whatever workers say, and whenever he asks: what he heard and what he was told that he missed add up."""
    scene = Scene()
    place = scene.read().place
    said = heard = 0
    for count, lost, asks in [*steps, (0, 0, True), (0, 0, True)]:
        scene.say(*["x" * 200_000] * count, lost=lost)
        said += count + lost
        if asks:
            found = scene.read(place)
            place = found.place
            heard += len(found.lines.splitlines()) + found.lost
    for _ in range(100):
        found = scene.read(place)
        place = found.place
        heard += len(found.lines.splitlines()) + found.lost
    assert heard == said


@pytest.mark.parametrize("place", [Place("x", 0), Place("", -1), Place("x", 2**62)])
def test_a_place_that_is_none_begins_anew(place: Place) -> None:
    """Of another agent's life, or made up."""
    scene = Scene()
    found = scene.read(place)
    assert found.begun and found.place is not None
    assert scene.read(Place(found.place.stream, 99)).begun


async def test_the_last_ones_are_of_what_was_recorded() -> None:
    """The newest that the filter picks, the oldest first; and whether anything is recorded at all."""
    scene = Scene(recorded=True)
    record = '{"service":"%s","target":"/%d","status":%d}'
    for n in range(50):
        scene.following.on_records(
            (record % ("pets.production", n, 200) + "\n" + record % ("cats", n, 503) + "\n").encode()
        )
    scene.following.on_records(b"{broken\n[1]\n")
    answering = scene.answering
    from agent.requests.filter import REQUESTS

    told = await answering.here(REQUESTS, RequestsAsked(Filter(service="pets.production"), last=3))
    assert told.recorded and told.lines.splitlines() == [
        (record % ("pets.production", n, 200)).encode() for n in (47, 48, 49)
    ]
    told = await answering.here(REQUESTS, RequestsAsked(Filter(statuses=("404",)), last=3))
    assert told.lines == b"" and scene.told == []
