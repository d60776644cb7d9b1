"""Several workers of one agent: what a document says is true of all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from policies.together import CHANGES, OWNERS, WORDS, Together
from tests.support.playbook import Playbook
from tests.support.proxy import GET, OK

FULL = b"HTTP/1.1 503 ...x-shoal-policy: breaker\r\n..."
SHED = b"HTTP/1.1 503 ...x-shoal-shed: 1\r\n..."


@pytest.fixture
def workers() -> Iterator[list[Playbook]]:
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    with ExitStack() as stack:
        made = []
        for region in range(4):
            words[OWNERS + region] = 100 + region
            made.append(stack.enter_context(Playbook(region, host="here", together=Together(words, region))))
        words[CHANGES] = 1
        yield made


def put(workers: list[Playbook], **documents: Any) -> None:
    for play in workers:
        play.put(play.instance("one", agent="here"), **documents)


def asks(play: Playbook, *, inbound: bool = False) -> Any:
    client = play.client(inbound=inbound)
    assert client >> GET
    return client


@pytest.mark.parametrize("inbound", [False, True])
def test_what_is_let_in_is_of_all_workers(workers: list[Playbook], inbound: bool) -> None:
    """`concurrency: 1` is one request under way, whichever workers are asked; and then it is another's turn."""
    put(workers, shed={"concurrency": 1})
    first = asks(workers[0], inbound=inbound)
    up = workers[0].upstream("one")
    for play in workers[1:]:
        assert asks(play, inbound=inbound) << SHED and play.idle
    assert up >> OK and first << b"HTTP/1.1 200 ..."
    second = asks(workers[3], inbound=inbound)
    assert asks(workers[0], inbound=inbound) << SHED
    assert workers[3].upstream("one") >> OK and second << b"HTTP/1.1 200 ..."


def test_all_that_is_allowed_may_be_one_workers(workers: list[Playbook]) -> None:
    """A client that keeps its connection to one of four gets all of the limit, and not a quarter."""
    put(workers, shed={"concurrency": 8}, breaker={"limits": {"requests": 8}})
    for _ in range(8):
        asks(workers[2])
        workers[2].upstream("one")
    assert asks(workers[2]) << FULL and asks(workers[1]) << FULL


def test_requests_of_a_breaker(workers: list[Playbook]) -> None:
    """Three in flight from the agent, and a client that goes away makes room."""
    put(workers, breaker={"limits": {"requests": 3}})
    clients = [asks(play) for play in workers[:3]]
    assert all(asks(play) << FULL for play in workers)
    clients[1].breaks()
    asks(workers[3])
    assert workers[3].upstream("one")


def test_connections_and_who_waits_for_one(workers: list[Playbook]) -> None:
    """`pending` and `connections` likewise; an idle connection of another worker's is none that is busy."""
    put(workers, breaker={"limits": {"pending": 1}})
    asks(workers[0])
    assert asks(workers[1]) << FULL
    up = workers[0].upstream("one")
    asks(workers[1])
    assert asks(workers[0]) << FULL
    up2 = workers[1].upstream("one")
    put(workers, breaker={"limits": {"connections": 2}})
    assert asks(workers[3]) << FULL
    assert up >> OK and up2 >> OK
    asks(workers[3])
    for play in (workers[0], workers[1], workers[3]):
        play.passes(0.05)
    assert not workers[3].idle


def test_retries_under_way(workers: list[Playbook]) -> None:
    """`retries: 1` is of the agent."""
    for play in workers:
        play.put("one", "two", breaker={"limits": {"retries": 1}}, retry={"attempts": 2})
    first, second = asks(workers[0]), asks(workers[1])
    workers[0].dialled().refuses()
    workers[0].passes(0.5)
    assert not workers[0].idle, "it tries again"
    workers[1].dialled().refuses()
    workers[1].passes(0.5)
    assert workers[1].idle and second << b"HTTP/1.1 503 ..." and first << b""


def test_a_limit_that_comes_later_knows_what_is_under_way(workers: list[Playbook]) -> None:
    """And one that goes leaves nothing behind."""
    put(workers)
    put(workers, breaker={"limits": {"requests": 2}})
    asks(workers[0])
    asks(workers[1])
    assert asks(workers[2]) << FULL
    put(workers)
    asks(workers[2])
    put(workers, breaker={"limits": {"requests": 1}})
    asks(workers[3])
    assert asks(workers[2]) << FULL


@pytest.mark.parametrize("key", [None, {"header": "x-user"}])
def test_a_rate_is_of_all_workers(workers: list[Playbook], key: Any) -> None:
    """Five pass, over one kept connection of one worker or over all of them; of a limit with keys, too."""
    limit = {"name": "all", "rate": "5/h", "burst": 5, **({"key": key} if key else {})}
    put(workers, ratelimit={"limits": [limit]})
    kept = workers[2].client()
    up = None
    for _ in range(3):
        assert kept >> GET
        up = up or workers[2].upstream("one")
        assert up >> OK and kept << b"HTTP/1.1 200 ..."
    for play in workers[:2]:
        client = asks(play)
        assert play.upstream("one") >> OK and client << b"HTTP/1.1 200 ..."
    for play in workers:
        assert asks(play) << b"HTTP/1.1 429 ..."
    assert kept >> GET and kept << b"HTTP/1.1 429 ..."


def test_services_have_limits_of_their_own(workers: list[Playbook]) -> None:
    """One that is full takes nothing from another; and what explains knows of other workers, too."""
    for play in workers:
        play.put("one", breaker={"limits": {"requests": 1}})
        play.put("tom", service="cats.production", breaker={"limits": {"requests": 1}})
    asks(workers[0])
    client = workers[1].client()
    assert client >> GET.replace(b"pets", b"cats")
    assert workers[1].upstream("tom")
    assert asks(workers[1]) << b"HTTP/1.1 503 ...1 requests are in flight..."
