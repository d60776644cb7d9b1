"""`limits.connections` of a breaker: never more of them than that, and whoever finds none free waits, or is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agent.proxy.table.connections import Connections
from policies.together import CHANGES, OWNERS, WORDS, Together
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import GET, OK, SERVICE

FULL = b"HTTP/1.1 503 ...x-shoal-policy: breaker\r\n..."


@pytest.fixture
def workers() -> Iterator[list[Playbook]]:
    words = memoryview(bytearray(8 * WORDS)).cast("q")
    with ExitStack() as stack:
        made = []
        for region in range(3):
            words[OWNERS + region] = 100 + region
            made.append(stack.enter_context(Playbook(region, together=Together(words, region))))
        words[CHANGES] = 1
        yield made


def asks(play: Playbook, count: int) -> list[Wire]:
    clients = [play.client() for _ in range(count)]
    for client in clients:
        assert client >> GET
    return clients


def dialled(play: Playbook) -> list[Wire]:
    """All that the proxy connects to now."""
    found = []
    while not play.idle:
        found.append(play.upstream())
    return found


def open_wires(play: Playbook) -> list[Wire]:
    """Connections to instances that are there, or being made."""
    return [wire for wire in play._wires if wire.name not in ("the client", "a caller's agent") and not wire.closed]


def tally_of(play: Playbook) -> Connections:
    return play.worker.table.services[SERVICE].tally


def test_a_burst_finds_as_many_as_there_may_be() -> None:
    """Five of twenty at once, where none waits; and no more later."""
    with Playbook() as play:
        play.put("one", "two", breaker={"limits": {"connections": 5}})
        for _ in range(3):
            clients = asks(play, 20)
            for each in clients[5:]:
                assert each << FULL
            dialled(play)
            for up in open_wires(play):
                assert up >> OK
            for each in clients[:5]:
                assert each << b"HTTP/1.1 200 ..."
            assert len(open_wires(play)) <= 5


def test_who_waits_gets_the_next_that_is_free() -> None:
    """In the order in which they came; as many as `pending` says, those that a connection is made for included."""
    with Playbook() as play:
        play.put("one", breaker={"limits": {"connections": 2, "pending": 4}})
        clients = asks(play, 5)
        assert clients[4] << b"HTTP/1.1 503 ...4 requests wait for a connection..."
        ups = dialled(play)
        assert len(ups) == 2 and tally_of(play).pending == 2
        more = asks(play, 3)
        assert more[2] << FULL
        answered = []
        for n in range(3):
            assert ups[n % 2] >> OK and play.idle
            answered.append([each for each in (*clients[:4], *more[:2]) if each.heard])
            for each in answered[-1]:
                assert each << b"HTTP/1.1 200 ..."
        assert answered == [[clients[0]], [clients[1]], [clients[2]]]
        assert len(open_wires(play)) == 2


def test_a_connection_to_another_makes_room() -> None:
    """Ten instances, two connections: each request goes where it was to go."""
    with Playbook() as play:
        play.put(*[f"i-{n}" for n in range(10)], breaker={"limits": {"connections": 2, "pending": 9}})
        heard = set()
        for _ in range(40):
            clients = asks(play, 4)
            for _ in clients:
                dialled(play)
                for up in open_wires(play):
                    if up.heard:
                        heard.add(up.name)
                        up.heard = b""
                        assert up >> OK
            for each in clients:
                assert each << b"HTTP/1.1 200 ..."
            assert len(open_wires(play)) <= 2
        assert len(heard) == 10


def test_who_gives_up_waits_no_longer() -> None:
    """By leaving, by a deadline of its own, or because it may take no longer; and nobody is blamed for it."""
    with Playbook() as play:
        documents = {
            "breaker": {"trip": {"consecutive": 1}, "limits": {"connections": 1, "pending": 9}},
            "outlier": {"consecutive_5xx": 1},
            "timeout": {"try": "1m"},
        }
        play.put("one", "two", **documents)
        service = play.worker.table.services[SERVICE]
        clients = asks(play, 3)
        (up,) = dialled(play)
        impatient = play.client()
        assert impatient >> GET[:-2] + b"X-Shoal-Deadline: 100\r\n\r\n"
        play.passes(3)
        clients[1].breaks()
        assert impatient << b"HTTP/1.1 504 ...no connection was free within its deadline..."
        assert tally_of(play).pending == 1
        late = play.client()
        assert late >> GET
        play.passes(6)
        assert up >> b"HTTP/1.1 200 OK\r\n\r\n"  # an answer that goes on and on
        for _ in range(3):
            play.passes(6)
            assert up >> b"more"
        for each in (clients[2], late):
            assert each << b"HTTP/1.1 504 ...no connection was free within the time allowed..."
        assert tally_of(play).pending == 0 and service.ejector is not None and service.ejector.ejected() == []
        assert service.circuit is not None and service.circuit.active == 1
        up.ends()
        assert service.circuit.active == 0 and all(load.active == 0 for load in service.loads.values())
        assert service.circuit.state == "closed"


def test_waiting_is_not_what_the_service_took() -> None:
    """Who waits for a connection for seconds and is answered at once found no slow service."""
    with Playbook() as play:
        trip = {"slow_percent": 100, "slow": "1s", "min_requests": 3}
        play.put("one", breaker={"trip": trip, "limits": {"connections": 1, "pending": 9}})
        service = play.worker.table.services[SERVICE]
        clients = asks(play, 6)
        (up,) = dialled(play)
        for each in clients:
            play.passes(0.9)
            assert up >> OK and each << b"HTTP/1.1 200 ..."
        assert service.circuit is not None and service.circuit.state == "closed"
        assert service.loads["one"].ewma_s < 1


def test_a_limit_that_comes_later() -> None:
    """What is idle goes at once, what is busy when it is free; and one that goes lets everybody in."""
    with Playbook() as play:
        one = play.instance("one")
        play.put(one)
        clients = asks(play, 6)
        ups = dialled(play)
        assert ups[0] >> OK and clients[0] << b"HTTP/1.1 200 ..."
        play.put(one, breaker={"limits": {"connections": 3, "pending": 5}})
        assert ups[0].closed
        waiting = asks(play, 2)
        for up in ups[1:3]:
            assert up >> OK and up.closed and play.idle
        assert ups[3] >> OK and not ups[3].closed and ups[3].heard.count(b"GET") == 2
        play.put(one)
        play.passes(0.1)
        assert len(dialled(play)) == 1 and waiting[0].heard == b""


@pytest.mark.parametrize("refusing", [True, False])
def test_many_that_wait_for_what_fails(refusing: bool) -> None:
    """A thousand, one after the other: no failure is another's, and nothing is left behind."""
    with Playbook() as play:
        limits = {"connections": 1, "pending": 2000}
        play.put("one", breaker={"limits": limits}, retry={"attempts": 1})
        if not refusing:

            def broken(dial: tuple[str, int]) -> Any:
                raise OSError(24, "no descriptors")

            play.worker.pool.make_socket = broken
        clients = asks(play, 1000)
        while not play.idle:
            play.dialled().refuses()
        for each in clients:
            assert each << b"HTTP/1.1 503 ..."
        assert tally_of(play).pending == tally_of(play).open == 0


def test_nobody_hedges_where_he_would_wait() -> None:
    """It would cost the budget, and a place among those that wait."""
    with Playbook() as play:
        limits = {"connections": 1, "pending": 9}
        play.put("one", "two", breaker={"limits": limits}, retry={"hedge": {"after": "20ms"}, "attempts": 2})
        (client,) = asks(play, 1)
        (up,) = dialled(play)
        play.passes(1)
        assert play.idle and tally_of(play).pending == 0
        assert up >> OK and client << b"HTTP/1.1 200 ..."
        assert "hedges" not in play.worker.table.services[SERVICE].stats.failures


def test_services_behind_one_agent_have_limits_of_their_own() -> None:
    """Connections to an agent are used for whichever service: each is counted for the one that it serves."""
    with Playbook() as play:
        other = GET.replace(b"pets", b"cats")
        frame = play.instance("tom", via=True, agent="another")
        play.put(frame, service="cats.production")
        play.put(frame, breaker={"limits": {"connections": 1}})
        clients = [play.client() for _ in range(3)]
        for client in clients[:2]:
            assert client >> other
        ups = dialled(play)
        for up in ups:
            assert up >> OK
        assert clients[0] >> GET and play.idle, "by a connection of the other service's"
        assert clients[1] >> GET and clients[1] << b"HTTP/1.1 200 ...HTTP/1.1 503 ..."
        assert clients[2] >> other and play.idle
        assert (tally_of(play).open, play.worker.table.services["cats.production"].tally.open) == (1, 1)


def test_as_many_of_all_workers(workers: list[Playbook]) -> None:
    """One that has all of them idle gives one after the other to those whose requests wait."""
    for play in workers:
        play.put("one", breaker={"limits": {"connections": 3, "pending": 9}})
    clients = asks(workers[0], 3)
    for up, client in zip(dialled(workers[0]), clients, strict=True):
        assert up >> OK and client << b"HTTP/1.1 200 ..."
    waiting = asks(workers[1], 2)
    assert workers[1].idle and len(open_wires(workers[0])) == 3
    for _ in range(3):
        for play in workers:
            play.passes(0.03)
    ups = dialled(workers[1])
    assert len(ups) == 2 and len(open_wires(workers[0])) == 1
    for up, client in zip(ups, waiting, strict=True):
        assert up >> OK and client << b"HTTP/1.1 200 ..."


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens(workers: list[Playbook], seed: int) -> None:
    """Requests, answers, resets, refused connections, clients that leave, time: never more connections than there may
    be, and in the end everybody was answered or has left, and nothing is counted."""
    rng = random.Random(seed)
    most = rng.randint(1, 4)
    for play in workers:
        play.put("one", "two", "three", breaker={"limits": {"connections": most, "pending": 50}}, retry={"attempts": 2})
    clients: list[tuple[Playbook, Wire]] = []
    for _ in range(400):
        play = rng.choice(workers)
        match rng.randrange(7):
            case 0 | 1:
                clients += [(play, client) for client in asks(play, rng.randint(1, 3))]
            case 2 if not play.idle:
                wire = play.dialled()
                wire.refuses() if rng.random() < 0.2 else wire.accepts()
            case 3 if clients:
                _, client = clients.pop(rng.randrange(len(clients)))
                if not client.closed:
                    client.breaks()
            case 4:
                play.passes(rng.random() * 0.3)
            case _:
                busy = [up for up in open_wires(play) if up.heard]
                if busy:
                    up = rng.choice(busy)
                    up.heard = b""
                    up.breaks() if rng.random() < 0.1 else up >> OK
        assert sum(len(open_wires(each)) for each in workers) <= most
    for _ in range(2000):
        if all(each.heard or each.closed for _, each in clients):
            break
        for play in workers:
            dialled(play)
            for up in open_wires(play):
                if up.heard:
                    up.heard = b""
                    assert up >> OK
            play.passes(0.05)
        assert sum(len(open_wires(each)) for each in workers) <= most
    assert all(each.heard or each.closed for _, each in clients)
    for play in workers:
        service = play.worker.table.services[SERVICE]
        assert tally_of(play).pending == 0 and service.circuit is not None and service.circuit.active == 0
        assert all(load.active == 0 for load in service.loads.values())
