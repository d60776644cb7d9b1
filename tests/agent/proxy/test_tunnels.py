"""Upgraded connections: how long they may be silent, and what is said when they were."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.playbook import Playbook, Wire

UPGRADE = b"GET /a HTTP/1.1\r\nHost: pets.production\r\n%bConnection: upgrade\r\nUpgrade: chat\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"
DELIVER = b"X-Request-Id: 7\r\nX-Shoal-Endpoint: pets.production/one\r\n"


def opened(play: Playbook, *, inbound: bool = False, **documents: Any) -> tuple[Wire, Wire]:
    """A chat through the proxy."""
    play.put(play.instance("one", agent="here"), **documents)
    play.worker.recorder.keep(True)
    client = play.client(inbound=inbound)
    assert client >> UPGRADE % (DELIVER if inbound else b"")
    up = play.upstream("one")
    assert up >> SWITCHED
    assert client << b"HTTP/1.1 101 Switching Protocols\r\n..."
    return client, up


def why(play: Playbook) -> list[str]:
    """What the access log says of those that ended."""
    return [str(row[14]) for row in play.worker.recorder._rows]


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize(
    ("timeout", "idle_s"),
    [
        (None, 3600.0),
        ({"idle": "30s"}, 30.0),
        ({"idle": "2h"}, 7200.0),
        ({"request": "5s", "try": "1s"}, 3600.0),
        ({"request": "5s", "idle": "30s"}, 30.0),
        ({"idle": "30s", "mode": "audit"}, 3600.0),
    ],
)
def test_silence_ends_it(timeout: Any, idle_s: float, inbound: bool) -> None:
    """Of both sides, at both agents, and nothing else does; a byte of either begins the time anew."""
    with Playbook(host="here") as play:
        client, up = opened(play, inbound=inbound, **({"timeout": timeout} if timeout else {}))
        for _ in range(2):
            play.passes(idle_s - 1)
            assert client >> b"ping"
            assert up << b"...ping" if up.heard.startswith(b"GET") else up << b"ping"
            play.passes(idle_s - 1)
            assert up >> b"pong"
            assert client << b"pong"
        play.passes(idle_s - 1)
        assert not client.closed and not up.closed and why(play) == []
        play.passes(1.1)
        assert client.closed and up.closed
        assert why(play) == [f"upgraded, and no byte either way for {idle_s:g} s (idle)"]


def test_without_a_limit_it_is_open_for_days() -> None:
    """As long as both sides are."""
    with Playbook(host="here") as play:
        client, up = opened(play, timeout={"idle": 0})
        play.passes(3 * 86400.0)
        assert not client.closed and not up.closed
        assert up.ends()
        assert client.ends()
        play.passes(10.0)
        assert client.closed and up.closed and why(play) == [""]


def test_a_side_that_has_said_all_is_no_reason_to_stay() -> None:
    """Half closed and silent, it ends as any other."""
    with Playbook(host="here") as play:
        client, up = opened(play, timeout={"idle": "30s"})
        assert up.ends()
        play.passes(20.0)
        assert client >> b"more"
        play.passes(20.0)
        assert not client.closed
        play.passes(11.0)
        assert client.closed and up.closed and "no byte either way for 30 s" in why(play)[0]


def test_it_teaches_nothing_about_the_endpoint() -> None:
    """Who is silent in a chat is neither ill nor slow."""
    with Playbook(host="here") as play:
        breaker = {"trip": {"consecutive": 1}}
        client, _ = opened(play, timeout={"idle": "30s"}, breaker=breaker, outlier={"consecutive_5xx": 1})
        play.passes(31.0)
        assert client.closed
        service = play.worker.table.services["pets.production"]
        assert service.circuit is not None and service.circuit.state == "closed"
        (place,) = service.plan.endpoints
        assert place.load.active == 0 and place.load.failures == 0
