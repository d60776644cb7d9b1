"""A request that leaves: what goes wrong with the instances, to the last byte."""

from __future__ import annotations

import gc

import pytest

from agent.proxy.http1.answering import ServerStream
from tests.support.conversation import BUSY, GET, HEARD, OK, POST, RELAYED, refusal, talk
from tests.support.playbook import Playbook


def test_nobody_is_there() -> None:
    """No endpoint, or a route that leads to a service that is not."""
    with Playbook() as play:
        play.put()
        client = play.client()
        assert client >> GET
        assert client << refusal(b"503 Service Unavailable", b"endpoint", b"no endpoint of pets.production")
        play.put("one", route={"rules": [{"split": [{"service": "cats.production"}]}]})
        assert client >> GET
        assert client << refusal(b"503 Service Unavailable", b"route", b"the route leads to cats.production")


def test_connecting_fails_and_the_next_one_takes_it() -> None:
    """At once, whatever the method; and for a moment nobody else is sent to the first."""
    with Playbook() as play:
        play.put("one", "two")
        client = play.client()
        assert client >> POST + b"hello"
        first = play.dialled()
        other = "two" if first.name == "one" else "one"
        assert first.refuses()
        second = play.upstream(other)
        assert second << b"POST /a ...x-shoal-attempt: 2\r\n\r\nhello"
        assert second >> OK
        assert client << RELAYED
        for _ in range(5):
            assert client >> GET
            assert second << HEARD and play.idle
            assert second >> OK
            assert client << RELAYED


@pytest.mark.parametrize(
    ("method", "status"), [(b"GET", b"503 Service Unavailable"), (b"POST", b"503 Service Unavailable")]
)
def test_nobody_can_be_connected_to(method: bytes, status: bytes) -> None:
    """That no instance saw any of it is said, so that somebody before us may try elsewhere."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> (GET if method == b"GET" else POST + b"hello")
        assert play.dialled("one").refuses()
        play.passes(0.3)
        assert play.dialled("one").refuses()
        assert client << refusal(status, b"endpoint", b"cannot connect to") + b"x-shoal-unsent: 1\r\n..."


@pytest.mark.parametrize("slow", ["connecting", "answering", "both"])
def test_it_takes_too_long(slow: str) -> None:
    """Connecting, or one try: 504, and a POST is sent once."""
    with Playbook() as play:
        play.put("one", timeout={"connect": "1s", "try": "2s"}, retry={"attempts": 1})
        client = play.client()
        assert client >> POST + b"hello"
        up = play.dialled("one")
        if slow == "connecting":
            play.passes(1.1)
        else:
            up.accepts()
            assert up << b"POST ...hello"
            play.passes(2.1)
        assert up.closed and play.idle
        reason = b"cannot connect to" if slow == "connecting" else b"127.0.0.1:"
        assert client << refusal(b"504 Gateway Timeout", b"timeout", reason)


def test_the_whole_request_takes_too_long() -> None:
    """15 s from its last byte to the answer's first, where nobody said anything else."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        play.passes(14.9)
        assert client << b""
        play.passes(0.3)
        assert up.closed
        assert client << refusal(b"504 Gateway Timeout", b"timeout", b"no answer within the time allowed")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2"])
def test_the_connection_breaks_before_an_answer(answer: bytes) -> None:
    """A GET goes to the next one, a POST may have been carried out: 502."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        if answer:
            assert up >> answer
        assert up.breaks()
        play.passes(0.3)
        second = play.upstream("one")
        assert second << b"GET /a ...x-shoal-attempt: 2\r\n\r\n"
        assert second >> OK
        assert client << RELAYED
        assert client >> POST + b"hello"
        assert second << b"POST ...hello"
        assert second.breaks()
        assert client << refusal(b"502 Bad Gateway", b"endpoint", b"127.0.0.1:") and play.idle


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"220 smtp.example ESMTP\r\n\r\n",
    ],
)
def test_an_answer_that_cannot_be_read(answer: bytes) -> None:
    """502, and that connection is used no more."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> answer
        assert up.closed
        assert client << refusal(b"502 Bad Gateway", b"http", b"a broken answer from")


@pytest.mark.parametrize("how", ["breaks", "bad chunk", "silence", "eof"])
def test_an_answer_that_does_not_come_whole(how: str) -> None:
    """The client sees that it did not: nothing that looks like an end is sent."""
    with Playbook() as play:
        play.put("one", timeout={"idle": "5s"})
        client, up = talk(play)
        assert up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert client << b"HTTP/1.1 200 OK\r\n...3\r\nabc\r\n"
        if how == "breaks":
            up.breaks()
        elif how == "bad chunk":
            assert up >> b"zz\r\n"
        elif how == "silence":
            play.passes(5.1)
        else:
            up.ends()
        assert client << b"" and client.closed and up.closed


@pytest.mark.parametrize("said", [b"he", b"3\r\nhe"])
def test_a_request_that_does_not_come_whole(said: bytes) -> None:
    """408 when its body stops; 400 when it cannot be read; and a client that goes is parted from."""
    head = POST if said == b"he" else POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    with Playbook() as play:
        play.put("one", timeout={"idle": "5s"})
        stops, leaves = play.client(), play.client()
        ups = []
        for client in (stops, leaves):
            assert client >> head + said
            ups.append(play.upstream("one"))
        assert leaves.ends()
        assert ups[1].closed and leaves.closed
        play.passes(5.1)
        assert stops << refusal(b"408 Request Timeout", b"timeout", b"the request's body stopped coming")
        assert ups[0].closed
        if b"chunked" in head:
            garbles = play.client()
            assert garbles >> head + b"zz\r\n"
            assert garbles << refusal(b"400 Bad Request", b"http", b"a chunk size")


def test_a_callback_that_fails_costs_its_connection_and_nothing_else() -> None:
    """`abort` may be called at any time: the exchange ends once, loads are given back."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        play.connection(client).abort()
        play.worker.reactor._give_up(play.worker.reactor._callbacks[up._fd]) if not up.closed else None
        service = play.worker.table.services["pets.production"]
        assert (service.stats.active, service.plan.endpoints[0].load.active) == (0, 0)
        assert client.closed and up.closed


def test_a_connection_that_closed_leaves_no_garbage_behind() -> None:
    """It and its stream refer to each other, until it closes: a collection would stop every request."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> OK
        assert client << RELAYED
        gc.collect()
        gc.disable()
        try:
            client.ends()
            left = [thing for thing in gc.get_objects() if isinstance(thing, ServerStream)]
        finally:
            gc.enable()
        assert client.closed and left == []


def test_a_hedge_that_is_not_made_costs_no_budget() -> None:
    """Not where the breaker of the other endpoint is open, nor where nobody lets it in: what is free is asked first."""
    budget = {"ratio": 0, "min_per_second": 1, "ttl": "1s"}
    with Playbook() as play:
        play.put(
            "one",
            "two",
            retry={"hedge": {"after": "20ms"}, "attempts": 3, "budget": budget},
            shed={"concurrency": 1},
        )
        service = play.worker.table.services["pets.production"]
        client = play.client()
        assert client >> GET
        up = play.upstream()
        play.passes(0.1)
        assert play.idle and "hedges" not in service.stats.failures
        assert service.budget.is_free(play.worker.reactor.now), "the hedge that was not let in has spent it"
        assert service.limiter is not None and service.limiter.active == 1
        assert up >> OK
        assert client << RELAYED and service.limiter.active == 0


def test_a_retry_that_the_breaker_forbids_costs_no_budget() -> None:
    """Likewise."""
    budget = {"ratio": 0, "min_per_second": 1, "ttl": "1s"}
    with Playbook() as play:
        play.put("one", retry={"attempts": 3, "budget": budget}, breaker={"limits": {"retries": 1}})
        service = play.worker.table.services["pets.production"]
        assert service.circuit is not None and service.circuit.may_retry()
        client, up = talk(play)
        assert up >> BUSY % b""
        assert client << b"HTTP/1.1 503 ..." and play.idle
        assert service.budget.is_free(play.worker.reactor.now)


@pytest.mark.parametrize("count", [2, 40])
def test_a_near_zone_that_refuses_hands_on_to_another(count: int) -> None:
    """However many it has: every one was ejected, or its breaker is open, and the other zone's takes the request."""
    with Playbook() as play:
        play.worker.table.zone = "a"
        near = [play.instance(f"near-{n}", zone="a") for n in range(count)]
        play.put(*near, play.instance("far", zone="b"))
        service = play.worker.table.services["pets.production"]
        for endpoint in service.plan.endpoints[:count]:
            endpoint.load.refused_until = play.worker.reactor.now + 30
        for _ in range(5):
            client = play.client()
            assert client >> GET
            assert play.upstream("far") << HEARD
