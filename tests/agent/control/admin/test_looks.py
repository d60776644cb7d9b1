"""Answers that are watched: one look for many, the newest to each, nothing where nobody watches."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from agent.control.admin.live.looks import MOST, Looks
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.asking.watched import Watched
from agent.control.host.rights import Right
from policies.language.plain import Flaw


class Counted(msgspec.Struct):
    """An answer."""

    value: int


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of it."""

    last: int = 0
    step_s: int = 10


class World:
    """What is asked, and how often it was."""

    def __init__(self) -> None:
        self.value = 0
        self.asked = 0
        self.revision = 0
        self.fails: Exception | None = None
        self.watched = Watched()
        self.looks = Looks(
            [
                Operation("GET", "/value", "a", "", Query, Counted, self.answer),
                Operation("GET", "/figures", "b", "", Query, Counted, self.answer),
                Operation("GET", "/one/{name}", "c", "", NoQuery, Counted, self.answer),
                Operation("GET", "/secret", "d", "", NoQuery, Counted, self.answer, right=Right.READ),
                Operation("GET", "/me", "e", "", NoQuery, Counted, self.answer, watched=False),
                Operation("POST", "/put", "f", "", NoQuery, Counted, self.answer),
                Operation("GET", "/table", "g", "", NoQuery, Counted, self.answer, made_of=lambda: self.revision),
            ],
            self.watched,
            trio.current_time,
        )

    async def answer(self, _: Asked) -> Counted:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return Counted(self.value)


class Page:
    """Who watches."""

    def __init__(self) -> None:
        self.told: list[tuple[int, bytes]] = []

    def __call__(self, status: int, body: bytes) -> None:
        self.told.append((status, body))


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.looks.run)
        await wait_all_tasks_blocked()
        yield world
        nursery.cancel_scope.cancel()


async def written(world: World) -> None:
    """Until everybody rests: answers are written in a thread, of which Trio's clock knows nothing."""
    await wait_all_tasks_blocked()
    while world.looks._writing.borrowed_tokens:
        await trio.to_thread.run_sync(time.sleep, 0.001)
        await wait_all_tasks_blocked()


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    return mock_clock


async def test_many_watch_one_look(clock: MockClock) -> None:
    """A newcomer is told at once what is known; who watches is told only of what is another one; the last to leave
    ends it."""
    async with running() as world:
        pages = [Page() for _ in range(3)]
        ends = [world.looks.watch("/value", 5, pages[0])]
        await written(world)
        ends += [world.looks.watch("/value", 5, page) for page in pages[1:]]
        assert [page.told for page in pages] == [[(200, b'{"value":0}')]] * 3
        assert (world.asked, len(world.looks)) == (1, 1)
        clock.jump(5.1)
        await written(world)
        assert world.asked == 2 and all(len(page.told) == 1 for page in pages)
        world.value = 7
        clock.jump(5.1)
        await written(world)
        assert all(page.told[1:] == [(200, b'{"value":7}')] for page in pages)
        for end in ends:
            end()
        await written(world)
        asked = world.asked
        clock.jump(60)
        await written(world)
        assert (world.asked, len(world.looks)) == (asked, 0)
        assert (world.watched.looks, world.watched.watches, world.watched.asked) == (0, 0, asked)


async def test_what_is_made_of_the_table_is_asked_for_when_that_is_another_one(clock: MockClock) -> None:
    """Also where it changed while it was asked; and once in a while all the same."""
    async with running() as world:
        page = Page()
        world.looks.watch("/table", 1, page)
        await written(world)
        for _ in range(20):
            clock.jump(1.1)
            await written(world)
        assert world.asked == 1
        world.revision, world.value = 1, 5
        clock.jump(1.1)
        await written(world)
        assert (world.asked, page.told[-1]) == (2, (200, b'{"value":5}'))
        for _ in range(60):
            clock.jump(1.1)
            await written(world)
        assert world.asked == 3


async def test_the_same_is_the_same_however_it_is_spelt(clock: MockClock) -> None:
    """The order of a query, its defaults and escapes make no other answer."""
    async with running() as world:
        for path in ("/value?last=1&step_s=10", "/value?step_s=10&last=1", "/v%61lue?last=1"):
            world.looks.watch(path, 5, Page())
        await written(world)
        assert (world.asked, len(world.looks), world.watched.watches) == (1, 1, 3)


async def test_who_wants_it_sooner_is_told_sooner(clock: MockClock) -> None:
    """And when he is gone, the others are told as they asked."""
    async with running() as world:
        world.looks.watch("/value", 50, Page())
        await written(world)
        end = world.looks.watch("/value", 2, Page())
        clock.jump(2.1)
        await written(world)
        assert world.asked == 2
        end()
        clock.jump(20)
        await written(world)
        assert world.asked <= 3


async def test_figures_are_asked_for_when_a_window_has_ended(clock: MockClock) -> None:
    """However often somebody wants them."""
    async with running() as world:
        world.looks.watch("/figures?last=1", 1, Page())
        await written(world)
        for _ in range(60):
            clock.jump(1)
            await written(world)
        assert 6 <= world.asked <= 8


async def test_figures_that_could_not_be_had_are_asked_for_again_soon(clock: MockClock) -> None:
    """And not when the next point would be there, which may be an hour later."""
    async with running() as world:
        page = Page()
        world.fails = Trouble(503, "too much is asked")
        world.looks.watch("/figures?step_s=3600", 10, page)
        await written(world)
        world.fails = None
        clock.jump(10.1)
        await written(world)
        assert [status for status, _ in page.told] == [503, 200]
        clock.jump(100)
        await written(world)
        assert world.asked == 2


async def test_what_goes_wrong_is_told_and_goes_on(clock: MockClock) -> None:
    """As a problem, with its status; and what is right again, too."""
    async with running() as world:
        page = Page()
        world.fails = Trouble(503, "away")
        world.looks.watch("/value", 1, page)
        await written(world)
        world.fails = RuntimeError("a mistake")
        clock.jump(1.1)
        await written(world)
        world.fails = None
        clock.jump(1.1)
        await written(world)
        assert [status for status, _ in page.told] == [503, 500, 200]
        assert msgspec.json.decode(page.told[0][1])["detail"] == "away"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/secret", 403),
        ("/me", 403),
        ("/put", 404),
        ("/nothing", 404),
        ("/one/a/b", 404),
        ("/value?lest=1", 400),
        ("/value?last=x", 400),
        ("/value?last=1&last=2", 400),
        ("", 404),
        ("//value", 404),
        ("http://[", 404),
        ("/value?last=%zz", 400),
    ],
)
async def test_what_is_not_watched(clock: MockClock, path: str, status: int) -> None:
    """Is refused with its reason; nothing is asked for it."""
    async with running() as world:
        with pytest.raises((Trouble, Flaw)) as refused:
            world.looks.watch(path, 1, Page())
        assert getattr(refused.value, "status", 400) == status
        assert (world.asked, len(world.looks)) == (0, 0)


async def test_there_is_a_bound(clock: MockClock) -> None:
    """Of different answers; those that are watched already may be watched by more."""
    async with running() as world:
        for number in range(MOST):
            world.looks.watch(f"/value?last={number}", 60, Page())
        with pytest.raises(Trouble, match="watched here already"):
            world.looks.watch("/value?last=-1", 60, Page())
        world.looks.watch("/value?last=0", 60, Page())


async def test_who_is_not_known_has_a_part_of_it(clock: MockClock) -> None:
    """And the others have what is left."""
    async with running() as world:
        for number in range(MOST // 2):
            world.looks.watch(f"/value?last={number}", 60, Page(), most=MOST // 2)
        with pytest.raises(Trouble, match="watched here already"):
            world.looks.watch("/value?last=-1", 60, Page(), most=MOST // 2)
        world.looks.watch("/value?last=-1", 60, Page())
