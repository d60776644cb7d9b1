"""Interim answers (1xx): as many as make sense, at the pace of who reads them, on both hops."""

from __future__ import annotations

import pytest

from agent.proxy.engine.reactor import HIGH_WATER_BYTES
from agent.proxy.http1.reading import MAX_INTERIM
from tests.support.conversation import DELIVER, GET, HEARD, OK, RELAYED
from tests.support.playbook import Playbook, Wire

HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
LARGE = b"HTTP/1.1 103 Early Hints\r\nlink: <" + b"a" * 50_000 + b">\r\n\r\n"
ANYWAY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"


def asked(play: Playbook, *, inbound: bool) -> tuple[Wire, Wire]:
    """A request that has reached the instance."""
    client = play.client(inbound=inbound)
    assert client >> (DELIVER % b"one" if inbound else GET)
    up = play.upstream("one")
    up.heard = b""
    return client, up


def put(play: Playbook) -> None:
    play.put(play.instance("one", agent="here"), retry={"attempts": 3})


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("pieces", [1, MAX_INTERIM, 7])
def test_an_end_to_interim_answers(inbound: bool, pieces: int) -> None:
    """In one piece or in many: beyond the bound it is a broken answer, which is not asked for again."""
    with Playbook(host="here") as play:
        put(play)
        client, up = asked(play, inbound=inbound)
        data = HINT * MAX_INTERIM
        size = len(data) // pieces + 1
        for at in range(0, len(data), size):
            assert up >> data[at : at + size]
        assert client << HINT * MAX_INTERIM
        assert up >> HINT
        assert client << b"HTTP/1.1 502 ...more than 100 interim answers (1xx), and no answer..."
        assert up.closed and play.idle


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 Mine"])
def test_the_bound_is_of_each_request(status: bytes) -> None:
    """Many in a row on one connection have theirs each; whatever kind they are."""
    hint = b"HTTP/1.1 %b\r\n\r\n" % status
    with Playbook() as play:
        play.put("one")
        client = play.client()
        for number in range(3):
            assert client >> GET
            up = play.upstream("one") if not number else up  # noqa: F821
            assert up << HEARD
            assert up >> hint * MAX_INTERIM + OK
            assert client << hint * MAX_INTERIM + RELAYED


def test_who_knows_no_interim_answers_is_not_flooded_either() -> None:
    """HTTP/1.0: they are thrown away, and counted."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> GET.replace(b"HTTP/1.1", b"HTTP/1.0")
        up = play.upstream("one")
        assert up >> HINT * (MAX_INTERIM + 1)
        assert client << b"HTTP/1.1 502 ..."


@pytest.mark.parametrize("inbound", [False, True])
def test_who_does_not_read_has_the_instance_wait(inbound: bool) -> None:
    """What is held is bounded; when the client goes on, so does the instance, and nothing is lost."""
    with Playbook(host="here") as play:
        put(play)
        client, up = asked(play, inbound=inbound)
        client.takes(0)
        connection = play.connection(client)
        said = 0
        while play.worker.reactor._callbacks[up._fd].__self__.reads:  # type: ignore[attr-defined]
            assert up >> LARGE
            said += 1
        assert connection._out is not None
        assert len(connection._out) <= HIGH_WATER_BYTES + len(LARGE) and said < 10
        client.takes(None)
        assert client << LARGE * said
        assert play.worker.reactor._callbacks[up._fd].__self__.reads  # type: ignore[attr-defined]
        assert up >> OK
        assert client << ANYWAY + b"...ok"


def test_a_second_attempt_that_had_to_wait_goes_on() -> None:
    """Both instances of a hedged request are read again."""
    with Playbook() as play:
        play.put("one", "two", retry={"hedge": {"after": "20ms"}, "attempts": 2})
        client = play.client()
        assert client >> GET
        first = play.upstream()
        play.passes(0.1)
        second = play.upstream()
        client.takes(0)
        for _ in range(7):
            assert first >> LARGE
        assert second >> LARGE
        ends = [play.worker.reactor._callbacks[each._fd].__self__ for each in (first, second)]  # type: ignore[attr-defined]
        assert not any(each.reads for each in ends)
        client.takes(None)
        assert all(each.reads for each in ends)
        assert second >> OK
        assert client << LARGE * 8 + RELAYED
