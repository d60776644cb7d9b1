"""What all connections of a worker hold together has a bound: who is slowest goes, and everybody else is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.proxy.engine.reactor import HIGH_WATER_BYTES, RECEIVE_BYTES, TIGHT_HIGH_WATER_BYTES, TIGHT_RECEIVE_BYTES
from agent.proxy.report.state import metrics
from tests.support.conversation import DELIVER, GET, OK, POST, RELAYED
from tests.support.playbook import Playbook, Wire

MOST = 1_000_000
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as made:
        made.worker.reactor.buffers.most = MOST
        made.put(made.instance("one", agent="here"), retry={"attempts": 1})
        yield made


def end_of(play: Playbook, wire: Wire) -> Any:
    """The proxy's end of an upstream connection."""
    return play.worker.reactor._callbacks[wire._fd].__self__  # type: ignore[attr-defined]


def held(play: Playbook) -> int:
    """What is counted, after whoever has to go went; it is what there is."""
    buffers = play.worker.reactor.buffers
    if buffers.total > buffers.most:
        buffers.relieve()
    ends = [c.__self__ for c in play.worker.reactor._callbacks.values()]  # type: ignore[attr-defined]
    out = sum(len(each._out or b"") for each in ends if hasattr(each, "_out"))
    unread = sum(len(each._early) for each in ends if hasattr(each, "_early"))
    assert buffers.total == out + unread == sum(each.held for each in ends if hasattr(each, "held"))
    return buffers.total


def slow_reader(play: Playbook, *, inbound: bool = False) -> tuple[Wire, Wire]:
    """It takes nothing of a large answer."""
    client = play.client(inbound=inbound)
    assert client >> (DELIVER % b"one" if inbound else GET)
    up = play.upstream("one")
    client.takes(0)
    assert up >> BIG
    while end_of(play, up).reads:
        assert up >> b"a" * 50_000
    return client, up


@pytest.mark.parametrize("inbound", [False, True])
def test_slow_readers_have_a_bound_together(play: Playbook, inbound: bool) -> None:
    """The first of them may hold much, those after them less; then the ones that have held for longest go."""
    readers = []
    for _ in range(40):
        readers.append(slow_reader(play, inbound=inbound)[0])
        assert held(play) <= MOST
    gone = [each.closed for each in readers]
    assert gone == sorted(gone, reverse=True) and 0 < sum(gone) < 35
    assert play.worker.reactor.buffers.cut_off == sum(gone)
    assert metrics(play.worker)["buffers"] == {"held": held(play), "most": MOST, "cut_off": sum(gone)}
    client = play.client()
    assert client >> GET
    assert play.upstream("one") >> OK
    assert client << RELAYED


def test_who_goes_on_reading_stays(play: Playbook) -> None:
    """One that takes what is held for it, however slowly, is no oldest one."""
    reading, up = slow_reader(play)
    for _ in range(40):
        slow_reader(play)
        reading.takes(None)
        reading.heard = b""
        reading.takes(0)
        while end_of(play, up).reads:
            assert up >> b"a" * 50_000
        assert held(play) <= MOST
    assert not reading.closed and play.worker.reactor.buffers.cut_off > 0


def test_near_the_bound_less_is_held_and_read_at_once(play: Playbook) -> None:
    """And as before when it is over."""
    buffers = play.worker.reactor.buffers
    assert (buffers.high_water, buffers.piece) == (HIGH_WATER_BYTES, RECEIVE_BYTES)
    client, _ = slow_reader(play)
    assert (buffers.high_water, buffers.piece) == (TIGHT_HIGH_WATER_BYTES, TIGHT_RECEIVE_BYTES)
    client.ends()
    assert (buffers.high_water, buffers.piece) == (HIGH_WATER_BYTES, RECEIVE_BYTES) and held(play) == 0


def test_an_instance_that_takes_no_uploads_counts(play: Playbook) -> None:
    """Also the other direction: it is a failure of the request, which is told."""
    clients = []
    for _ in range(40):
        client = play.client()
        assert client >> POST.replace(b"Content-Length: 5", b"Content-Length: 99000000")
        up = play.upstream("one")
        up.takes(0)
        while play.connection(client).reads:
            assert client >> b"a" * 50_000
        clients.append(client)
        assert held(play) <= MOST
    told = [each.heard.startswith(b"HTTP/1.1 502") for each in clients]
    assert told == sorted(told, reverse=True) and sum(told) == play.worker.reactor.buffers.cut_off > 0


@pytest.mark.parametrize("what", ["heads in part", "requests that came early"])
def test_what_was_read_too_early_counts(play: Playbook, what: str) -> None:
    """Slow heads, and requests behind one that is under way."""
    said = b"GET /a HTTP/1.1\r\nX-A: " + b"a" * 55_000
    clients = []
    for _ in range(60):
        client = play.client()
        if what == "heads in part":
            assert client >> said[:100] and client >> said[100:]
        else:
            assert client >> GET >> GET * 500
            play.upstream("one")
        clients.append(client)
        assert held(play) <= MOST
    gone = [each.closed for each in clients]
    assert gone == sorted(gone, reverse=True) and any(gone) and not all(gone)
    for each in clients:
        if not each.closed:
            each.ends()
    assert held(play) == 0


def test_tunnels_count(play: Playbook) -> None:
    """Both ways."""
    for _ in range(30):
        client = play.client()
        assert client >> GET[:-2] + b"Connection: upgrade\r\nUpgrade: chat\r\n\r\n"
        up = play.upstream("one")
        assert up >> b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"
        client.takes(0)
        up.takes(0)
        while not up.closed and end_of(play, up).reads:
            assert up >> b"a" * 50_000
        while not client.closed and play.connection(client).reads:
            assert client >> b"a" * 50_000
        assert held(play) <= MOST
    assert play.worker.reactor.buffers.cut_off > 0


def test_an_instance_that_answers_and_takes_no_more_holds_nothing(play: Playbook) -> None:
    """What was held of the request is dropped, and not counted."""
    client = play.client()
    assert client >> POST.replace(b"Content-Length: 5", b"Content-Length: 99000000")
    up = play.upstream("one")
    up.takes(0)
    assert client >> b"a" * 100_000
    assert held(play) >= 100_000
    up.deaf = True
    up.takes(None)
    assert held(play) == 0
