"""Taps of live requests: who asks for the same shares one, and nobody's is forgotten."""

from __future__ import annotations

import pytest

from agent.control.asking.answering import Answering, Refusal
from agent.control.traffic.tapping import MOST_TAPS, Tapping
from agent.frames import Followed, Tap
from agent.requests.filter import Filter, Place, RequestsTold
from agent.requests.taps import TapsAsked, Wanted

HERE = "here"


class Scene:
    """One agent's, and what its workers are told."""

    def __init__(self) -> None:
        self.told: list[Tap] = []
        self.tapping = Tapping(HERE, Answering(HERE, {}))
        self.tapping.connect(self.told.extend)

    def read(self, wanted: Wanted, place: Place | None = None, now: float = 0.0) -> RequestsTold:
        return self.tapping.read(TapsAsked(wanted, {HERE: place} if place is not None else {}), now)


def test_workers_hear_what_is_to_be_shown_and_who_asks_reads_on() -> None:
    """What of requests is asked for makes another tap of the same filter; a new worker is told all of them."""
    scene = Scene()
    plain, headed = Wanted(Filter("pets.production")), Wanted(Filter("pets.production"), headers=True)
    first = scene.read(plain)
    assert scene.read(plain).place == first.place and len(scene.told) == 1
    scene.read(headed)
    assert list(scene.told[-1].wanted.values()) == [plain, headed] and scene.tapping.frames() == [scene.told[-1]]
    assert first.place is not None
    scene.tapping.on_followed(Followed(first.place.stream, 1, b"{}\n", 2))
    scene.tapping.on_followed(Followed("another room's", 1, b"{}\n", 2))
    found = scene.read(plain, first.place)
    assert (found.lines, found.lost, scene.tapping.lost) == (b"{}\n", 2, 2)


def test_there_are_so_many_and_no_more() -> None:
    """And the one that nobody asks for any more makes room."""
    scene = Scene()
    for number in range(MOST_TAPS):
        scene.read(Wanted(Filter(path=f"/{number}")), now=float(number))
    with pytest.raises(Refusal, match="4 taps are open here already"):
        scene.read(Wanted(Filter()), now=5.0)
    scene.tapping._streams.forget(10.5)
    assert scene.tapping.taps == MOST_TAPS - 1 and len(scene.told[-1].wanted) == MOST_TAPS - 1
    scene.read(Wanted(Filter()), now=10.5)
    scene.tapping._streams.forget(100.0)
    assert scene.tapping.taps == 0 and scene.told[-1].wanted == {} and scene.tapping.frames() == []
