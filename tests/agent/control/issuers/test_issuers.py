"""Keys of issuers over time, on a clock of the test's: fetched ahead, kept, turned, and never asked for too often."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from agent.control.issuers import issuers as module
from agent.control.issuers.fetching import Found
from agent.control.issuers.issuers import MAX_SOURCES, MISS_S, Issuers
from agent.control.issuers.shelf import KEEP_S, Kept, Shelf
from agent.control.outgoing.client import Client
from agent.frames import IssuerKeys
from policies.kinds.authn.source import Source, of_keys
from tests.support.tokens import PUBLIC

A = of_keys("https://a.example/jwks")
B = of_keys("https://b.example/jwks")
START_S = 1_800_000_000.0


class World:
    """One agent, whose documents and issuers are the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *sources: Source, agents: int = 1) -> None:
        self.sources: Iterable[Source] = sources
        self.max_age_s = 86_400.0
        self.kids: dict[str, list[str] | str] = {source.name: ["1"] for source in sources}
        """By source: what is published, or why nothing is to be had."""
        self.fresh_s = 600.0
        self.asked: list[tuple[str, float]] = []
        self.told: list[tuple[str, list[str] | None]] = []
        self.said_s: list[float] = []
        """When each was said that workers were told, since the beginning."""
        self.events: list[tuple[str, str]] = []
        self.folder = folder
        self.agents = agents
        monkeypatch.setattr(module, "fetch", self._fetch)
        self.issuers = self.made()

    def made(self) -> Issuers:
        return Issuers(
            None,  # type: ignore[arg-type] - nothing leaves this test
            self.folder,
            lambda: [(source, self.max_age_s) for source in self.sources],
            publish=self._publish,
            agents=lambda: self.agents,
            clock=lambda: START_S + trio.current_time(),
            chance=Random(7),
            in_thread=self._now,
            tell=lambda name, reason: self.events.append((name, reason)),
        )

    async def _now(self, work: Callable[..., object], *about: object) -> None:
        work(*about)

    async def _fetch(self, client: Client, source: Source, known: tuple[str, str] = ("", "")) -> Found | str:
        self.asked.append((source.name, trio.current_time()))
        kids = self.kids[source.name]
        if isinstance(kids, str):
            return kids
        etag = json.dumps(kids)
        if known == (source.url, etag):
            return Found(None, source.url, etag, self.fresh_s)
        return Found(tuple({**PUBLIC, "kid": kid} for kid in kids), source.url, etag, self.fresh_s)

    def _publish(self, frame: IssuerKeys) -> None:
        told = frame.source, None if frame.jwks is None else [jwk["kid"] for jwk in frame.jwks]
        if frame.jwks is not None:
            assert frame.said_s is not None
            self.said_s.append(frame.said_s - START_S)
        if told not in self.told[-1:]:  # the same keys are told again for the time at which they were said
            self.told.append(told)

    def times(self, source: Source = A) -> list[float]:
        """When it was asked."""
        return [at for name, at in self.asked if name == source.name]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch, A)


async def test_keys_are_fetched_ahead_and_told_when_they_change(world: World, autojump_clock: object) -> None:
    """Within what the issuer says, never sooner than three quarters of it; of the same keys when they were said."""
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(3000)
        assert world.told == [(A.name, ["1"])]
        gaps = [b - a for a, b in zip(world.times(), world.times()[1:], strict=False)]
        assert world.said_s == pytest.approx(world.times(), abs=0.01)
        assert len(gaps) >= 5 and all(450 <= gap <= 600 for gap in gaps) and len(set(gaps)) > 1
        world.kids[A.name] = ["2"]
        await trio.sleep(601)
        assert world.told == [(A.name, ["1"]), (A.name, ["2"])]
        assert world.issuers.frames() == [
            IssuerKeys(A.name, [{**PUBLIC, "kid": "2"}], world.issuers.held[A.name].fetched_at)
        ]
        (state,) = world.issuers.as_state()
        assert state["kids"] == ["2"] and state["age_s"] <= 600 and state["failing_s"] is None
        nursery.cancel_scope.cancel()


async def test_a_flood_of_unknown_keys_makes_one_fetch_in_thirty_seconds(world: World, autojump_clock: object) -> None:
    """However many tokens tell of them; the last word is heeded when the time is over."""
    world.fresh_s = math.inf
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(1)
        began = len(world.asked)
        for _ in range(3000):
            world.issuers.miss(A.name)
            world.issuers.miss("https://nobody.example/jwks")
            await trio.sleep(0.1)
        gaps = [b - a for a, b in zip(world.times(), world.times()[1:], strict=False)]
        assert len(world.asked) - began <= 300 / MISS_S and min(gaps) > MISS_S - 0.001
        assert {name for name, _ in world.asked} == {A.name}
        nursery.cancel_scope.cancel()


async def test_a_key_that_is_missed_is_looked_for_at_once(world: World, autojump_clock: object) -> None:
    """Where nobody has asked for a while."""
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(100)
        world.kids[A.name] = ["1", "2"]
        world.issuers.miss(A.name)
        await trio.sleep(0.01)
        assert world.told[-1] == (A.name, ["1", "2"])
        nursery.cancel_scope.cancel()


async def test_an_issuer_that_is_away_stops_nobody(world: World, autojump_clock: object) -> None:
    """Keys stay in force, it is asked less and less often, and how old they are is told; a restart knows them too."""
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(10)
        world.kids[A.name] = "it answers 500"
        await trio.sleep(20_000)
        assert world.told == [(A.name, ["1"])]
        (state,) = world.issuers.as_state()
        assert state["keys"] == 1 and state["reason"] == "it answers 500"
        assert state["age_s"] > 19_000 and 19_000 < state["failing_s"] < 20_000
        gaps = [b - a for a, b in zip(world.times(), world.times()[1:], strict=False)][1:]
        assert gaps[0] <= 5 and 60 <= gaps[-1] <= 300
        nursery.cancel_scope.cancel()
    again = world.made()
    world.told.clear()
    again.follow()
    assert world.told == [(A.name, ["1"])] and len(again.frames()) == 1
    assert again.as_state()[0]["age_s"] > 19_000


async def test_keys_that_were_never_got_are_asked_for_until_they_come(world: World, autojump_clock: object) -> None:
    world.kids[A.name] = "no whole answer within 10 s"
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(60)
        assert world.told == [] and world.issuers.frames() == [] and len(world.asked) >= 3
        assert world.issuers.as_state()[0]["keys"] is None
        world.kids[A.name] = ["1"]
        await trio.sleep(301)
        assert world.told == [(A.name, ["1"])]
        nursery.cancel_scope.cancel()


async def test_an_issuer_that_fails_for_long_is_news_once(world: World, autojump_clock: object) -> None:
    """And its return; a minute of it is none."""
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(10)
        world.kids[A.name] = "it answers 500"
        world.issuers.miss(A.name)
        await trio.sleep(250)
        assert world.events == [] and world.issuers.as_state()[0]["failing_s"] is not None
        await trio.sleep(1000)
        assert world.events == [("issuer.failing", "it answers 500")]
        world.kids[A.name] = ["1"]
        await trio.sleep(400)
        assert world.events[1:] == [("issuer.back", "")]
        nursery.cancel_scope.cancel()


async def test_keys_that_end_are_told_in_time_and_a_restart_makes_them_no_younger(
    world: World, autojump_clock: object
) -> None:
    """Once, when a quarter is left; whoever verifies knows when they were said, and so does the agent's successor."""
    world.max_age_s = 7200.0
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(3600)
        assert world.issuers.as_state()[0]["ending"] is False
        world.kids[A.name], said_s = "it answers 500", world.said_s[-1]
        await trio.sleep_until(said_s + 5380)
        assert world.issuers.as_state()[0]["ending"] is False
        assert [name for name, _ in world.events] == ["issuer.failing"]
        await trio.sleep_until(said_s + 7300)
        assert [name for name, _ in world.events] == ["issuer.failing", "issuer.ending"]
        assert "it answers 500" in world.events[1][1] and A.name in world.events[1][1]
        (state,) = world.issuers.as_state()
        assert state["ending"] is True and state["left_s"] == 0.0 and state["keys"] == 1
        nursery.cancel_scope.cancel()
    again = world.made()
    again.follow()
    assert world.said_s[-1] == said_s and again.keyring.said_s(A.name) == pytest.approx(START_S + said_s)
    assert again.as_state()[0]["left_s"] == 0.0


async def test_of_documents_with_one_issuer_the_first_to_doubt_it_is_told(world: World, autojump_clock: object) -> None:
    """And a document that gives more time takes effect without a fetch."""
    issuers = world.issuers
    issuers._sources = lambda: [(A, 9000.0), (A, 8000.0), (A, 86_400.0)]
    issuers.follow()
    assert issuers.held[A.name].max_age_s == 8000.0
    issuers._sources = lambda: [(A, 86_400.0)]
    issuers.follow()
    assert issuers.held[A.name].max_age_s == 86_400.0 and world.asked == []


async def test_a_clock_that_was_ahead_makes_no_key_younger(world: World, autojump_clock: object) -> None:
    """What the disk says of the future is of now."""
    Shelf(world.folder).write(Kept(A.name, ({**PUBLIC, "kid": "1"},), A.url, "", START_S + 1e9))
    world.issuers.follow()
    assert world.issuers.keyring.said_s(A.name) <= START_S + trio.current_time()


async def test_documents_come_and_go(world: World, autojump_clock: object) -> None:
    """Another issuer is fetched; one that nobody names is asked no more, and its keys go when no worker can still run
    a document that names it."""
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(10)
        world.sources, world.kids[B.name] = [B], ["b"]
        world.issuers.follow()
        await trio.sleep(10)
        assert world.told[1:] == [(B.name, ["b"])]
        await trio.sleep(60)
        assert world.told[2:] == [(A.name, None)]
        asked = len(world.times())
        await trio.sleep(5000)
        assert len(world.times()) == asked
        nursery.cancel_scope.cancel()


async def test_a_document_that_comes_back_finds_its_keys(world: World, autojump_clock: object) -> None:
    """From disk, and nobody takes them away a minute later."""
    async with trio.open_nursery() as nursery:
        world.issuers.follow()
        nursery.start_soon(world.issuers.run)
        await trio.sleep(10)
        world.sources = []
        world.issuers.follow()
        world.sources, world.kids[A.name] = [A], "away"
        world.issuers.follow()
        await trio.sleep(100)
        assert world.told == [(A.name, ["1"])] and len(world.said_s) == 2
        nursery.cancel_scope.cancel()


async def test_agents_of_a_large_mesh_begin_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """A thousand of them over ten seconds; one that is alone, at once."""
    began: list[float] = []
    for number in range(40):
        world = World(tmp_path / str(number), monkeypatch, A, agents=1000)
        world.issuers._chance.seed(number)
        async with trio.open_nursery() as nursery:
            at = trio.current_time()
            world.issuers.follow()
            nursery.start_soon(world.issuers.run)
            while not world.asked:
                await trio.sleep(0.01)
            began.append(trio.current_time() - at)
            nursery.cancel_scope.cancel()
    assert min(began) < 2 and 7 < max(began) <= 10.1


async def test_there_is_an_end_to_issuers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Beyond a bound they are not fetched, and that is told."""
    many = [of_keys(f"https://{n}.example/jwks") for n in range(MAX_SOURCES + 5)]
    world = World(tmp_path, monkeypatch, *many)
    world.issuers.follow()
    assert len(world.issuers.held) == MAX_SOURCES and world.issuers.unlisted == 5


def test_a_file_is_of_the_source_that_stands_in_it(tmp_path: Path) -> None:
    """Keys of one are not taken for another's, rubbish is not taken for keys, and none of it ends an agent."""
    shelf = Shelf(tmp_path)
    shelf.write(Kept(A.name, (PUBLIC, {"kty": "oct", "k": "AAAA"}), A.url, "e", 1.0))
    kept = shelf.read(A.name)
    assert kept is not None and kept.jwks == (PUBLIC,)
    (path,) = tmp_path.glob("*.json")
    shelf.write(Kept(B.name, (PUBLIC,), B.url, "e", 1.0))
    (other,) = set(tmp_path.glob("*.json")) - {path}
    other.write_bytes(path.read_bytes())
    assert shelf.read(B.name) is None
    path.write_bytes(b"\xff{")
    assert shelf.read(A.name) is None and shelf.read("nobody") is None


def test_what_nobody_names_goes_in_time(tmp_path: Path) -> None:
    """Not at once: a document may come back."""
    import os

    shelf = Shelf(tmp_path)
    for source in (A, B):
        shelf.write(Kept(source.name, (PUBLIC,), source.url, "", 1.0))
    shelf.sweep([A.name])
    assert shelf.read(B.name) is not None
    for path in tmp_path.iterdir():
        old = path.stat().st_mtime - KEEP_S - 1
        os.utime(path, (old, old))
    shelf.sweep([A.name])
    assert shelf.read(A.name) is not None and shelf.read(B.name) is None
