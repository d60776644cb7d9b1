"""What a worker does when this host has no descriptor, memory or port for it: it says so, and blames nobody else."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest
import trio

from agent.frames import Limits
from tests.support.conversation import DELIVER, GET, HEARD, OK, POST, RELAYED, refusal, talk
from tests.support.descriptors import none_left
from tests.support.playbook import Playbook
from tests.support.proxy import GET as ASK
from tests.support.proxy import SERVICE, Client, always_ok, endpoint, running_proxy

HERE = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS]
STRICT: dict[str, Any] = {
    "outlier": {"consecutive_5xx": 1, "consecutive_gateway": 1, "max_percent": 99},
    "breaker": {"trip": {"consecutive": 1}, "endpoint": {"trip": {"consecutive": 1}}},
    "retry": {"attempts": 1},
}


class Poor:
    """Makes no sockets, for so many times."""

    def __init__(self, play: Playbook, code: int, times: int = 1_000_000) -> None:
        self._make = play.worker.pool.make_socket
        self._code = code
        self.times = times
        play.worker.pool.make_socket = self

    def __call__(self, dial: tuple[str, int]) -> socket.socket:
        if self.times:
            self.times -= 1
            raise OSError(self._code, os.strerror(self._code))
        return self._make(dial)


def blamed(play: Playbook) -> list[str]:
    """Endpoints that something was learnt of."""
    service = play.worker.table.services[SERVICE]
    found = [] if service.circuit is None or service.circuit.state == "closed" else ["the service"]
    for each in service.plan.endpoints:
        circuit = each.load.circuit
        ejected = service.ejector is not None and service.ejector.until(each.id) > 0
        opened = circuit is not None and circuit.state != "closed"
        if each.load.failures or each.load.active or each.load.refused_until or ejected or opened:
            found.append(each.id)
    return found


@pytest.mark.parametrize("code", HERE)
@pytest.mark.parametrize("method", [GET, POST], ids=["GET", "POST"])
def test_it_is_this_agent_s_failure(code: int, method: bytes) -> None:
    """503 with a reason of its own; no endpoint is passed over, ejected, or counted against."""
    with Playbook() as play:
        play.put("one", "two", **STRICT)
        poor = Poor(play, code)
        client = play.client()
        assert client >> method
        assert client << refusal(b"503 Service Unavailable", b"agent", b"this agent cannot connect to ")
        assert blamed(play) == []
        stats = play.worker.table.services[SERVICE].stats
        assert stats.failures == {"agent": 1} and stats.refused == {"agent": 1}
        poor.times = 0
        client = play.client()
        assert client >> GET
        assert play.upstream() << HEARD


def test_an_inbound_hop_says_that_nothing_was_sent() -> None:
    """So that the calling agent may go elsewhere, whatever the method."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), **STRICT)
        Poor(play, errno.EMFILE)
        client = play.client(inbound=True)
        assert client >> DELIVER % b"one"
        assert client << b"HTTP/1.1 503 ...x-shoal-policy: agent...x-shoal-unsent: 1..."
        assert blamed(play) == []


def test_another_try_is_made_where_the_policy_allows_one() -> None:
    """A descriptor may be free by then."""
    with Playbook() as play:
        play.put("one", "two", retry={"attempts": 2, "backoff": {"base": "1ms", "max": "1ms"}})
        Poor(play, errno.EMFILE, 1)
        client = play.client()
        assert client >> GET
        play.passes(1.0)
        up = play.upstream()
        assert up << HEARD[:-2] + b"x-shoal-attempt: 2\r\n\r\n"
        assert up >> OK
        assert client << RELAYED
        assert blamed(play) == []


def test_an_idle_connection_makes_room_for_one_that_is_wanted() -> None:
    """It is closed for its descriptor."""
    with Playbook() as play:
        play.put("one", service="other.production")
        play.put("two")
        client = play.client()
        assert client >> GET.replace(b"pets", b"other")
        idle = play.upstream("one")
        assert idle >> OK
        Poor(play, errno.EMFILE, 1)
        assert client >> GET
        assert idle.closed
        assert play.upstream("two") << HEARD
        assert play.worker.pool.idle == 0 and play.worker.pool.opened == 1


def test_no_port_to_one_endpoint_is_no_fault_of_it_and_another_may_do() -> None:
    """EADDRNOTAVAIL is about this host and that address: it is passed over for a second, and judged by nobody."""
    with Playbook() as play:
        play.put("one", "two", outlier=STRICT["outlier"], breaker=STRICT["breaker"])
        client = play.client()
        assert client >> GET
        wire = play.dialled()
        name = wire.name
        wire._error = errno.EADDRNOTAVAIL
        wire.accepts()
        play.passes(0.2)
        up = play.upstream()
        assert up.name != name
        assert up >> OK
        assert client << b"..." + RELAYED
        (load,) = [e.load for e in play.worker.table.services[SERVICE].plan.endpoints if e.id == name]
        assert load.refused_until and not load.failures and load.circuit.state == "closed"


def test_a_refused_connection_is_the_endpoint_s() -> None:
    """As before."""
    with Playbook() as play:
        play.put("one", retry={"attempts": 1})
        client = play.client()
        assert client >> GET
        play.dialled("one").refuses()
        assert client << refusal(b"503 Service Unavailable", b"endpoint", b"cannot connect to 127.0.0.1:")
        assert blamed(play) == ["one"]


def test_a_hedge_that_cannot_be_made_costs_nothing() -> None:
    """The first attempt goes on alone."""
    with Playbook() as play:
        play.put("one", "two", retry={"hedge": {"after": "50ms"}})
        client = play.client()
        assert client >> GET
        up = play.upstream()
        Poor(play, errno.EMFILE)
        play.passes(0.2)
        assert up >> OK
        assert client << RELAYED
        assert blamed(play) == []


def test_copies_are_no_failure_of_their_target() -> None:
    """And the request itself is not touched."""
    with Playbook() as play:
        play.put("new", service="new.production")
        play.put("one", shadow={"copies": [{"to": "new.production", "percent": 100}]})
        client = play.client()
        assert client >> GET
        up = play.upstream("one")
        Poor(play, errno.ENOMEM)
        for _ in range(10):
            assert up >> OK
            play.passes(0.1)
            assert client << RELAYED
            assert client >> GET
        (load,) = [e.load for e in play.worker.table.services["new.production"].plan.endpoints]
        assert load.copies_failed == 0 and load.active == 0


def test_idle_connections_are_kept_as_far_as_there_are_descriptors() -> None:
    """Beyond that they are closed when they are free."""
    with Playbook() as play:
        play.put("one")
        play.worker.pool.most = 1
        (first, up), (second, other) = talk(play), talk(play)
        assert up >> OK
        assert up.closed and other >> OK
        assert not other.closed and play.worker.pool.idle == 1
        assert first << RELAYED and second << RELAYED


async def test_a_client_without_a_descriptor_is_told() -> None:
    """503 at once and a closed connection, for each that comes; and who comes when there is one is served."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        socks = [socket.socket() for _ in range(5)]
        with none_left():
            for sock in socks:
                sock.setblocking(False)
                try:
                    sock.connect(("127.0.0.1", proxy.outbound_port))
                except BlockingIOError:
                    pass
            clients = [Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock))) for sock in socks]
            proxy.clients += clients
            for client in clients:
                told = await client.rest()
                assert told.startswith(b"HTTP/1.1 503") and b"out of descriptors" in told
            assert not proxy.worker.reserve.lent
        assert proxy.worker.refused == {"agent": 5}
        assert (await (await proxy.client()).ask(ASK)).endswith(b"ok")


async def test_an_idle_connection_to_an_endpoint_makes_room_for_a_client() -> None:
    """Who can be served is served."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        first = await proxy.client()
        await first.ask(ASK)
        assert proxy.worker.pool.idle == 1
        with socket.socket() as sock:
            sock.setblocking(False)
            with none_left():
                try:
                    sock.connect(("127.0.0.1", proxy.outbound_port))
                except BlockingIOError:
                    pass
                with trio.fail_after(60):
                    while proxy.worker.accepted < 2:
                        await trio.sleep(0.005)
            assert proxy.worker.pool.idle == 0 and len(proxy.worker.connections) == 2


def test_limits_of_descriptors_come_before_those_of_the_settings() -> None:
    """503 before there are none."""
    with Playbook() as play:
        play.worker._affordable = 1
        play.worker.limits = Limits(max_connections=1000)
        play.put("one")
        talk(play)
        assert play.client() << b"HTTP/1.1 503 ...as many connections as it may..."
