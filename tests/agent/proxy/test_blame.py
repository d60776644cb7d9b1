"""What counts against a service and its endpoints: what they did, and all of it; nothing that their clients did."""

from __future__ import annotations

from typing import Any

import pytest

from agent.proxy.table.service import Service
from policies.endpoint import Load
from policies.kinds.balance.penalty import burden
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import GET, SERVICE

POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
FAILED = b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
ONE = {
    "breaker": {
        "trip": {"consecutive": 1, "slow_percent": 1, "slow": "1s", "min_requests": 1},
        "endpoint": {"trip": {"consecutive": 1, "slow_percent": 1, "slow": "1s", "min_requests": 1}},
    },
    "outlier": {"consecutive_5xx": 1},
}
"""The first that counts against anybody opens and ejects."""


def scene(play: Playbook, **documents: Any) -> Service:
    play.put("one", "two", **{**ONE, "retry": {"attempts": 1}, **documents})
    return play.worker.table.services[SERVICE]


def asks(play: Playbook, request: bytes = GET) -> tuple[Wire, Wire]:
    client = play.client()
    assert client >> request
    return client, play.upstream()


def held_against(service: Service) -> dict[str, Any]:
    """By the service's breaker, by an endpoint's, by the ejector."""
    assert service.circuit is not None and service.ejector is not None
    opened = [load for load in service.loads.values() if load.circuit is not None and load.circuit.state != "closed"]
    found = {"service": service.circuit.state == "open", "endpoint": bool(opened), "outlier": service.ejector.ejected()}
    return {who: what for who, what in found.items() if what}


def slowest(service: Service) -> Load:
    return max(service.loads.values(), key=lambda load: load.ewma_s)


# Not theirs.


@pytest.mark.parametrize("connected", [True, False])
def test_a_deadline_of_no_patience(connected: bool) -> None:
    """A client that gives a millisecond gets its 504, and nobody is blamed, whatever the try had come to."""
    with Playbook() as play:
        service = scene(play)
        client = play.client()
        assert client >> GET[:-2] + b"X-Shoal-Deadline: 1\r\n\r\n"
        if connected:
            play.upstream()
        play.passes(0.1)
        assert client << b"HTTP/1.1 504 ...x-shoal-policy: timeout..."
        assert held_against(service) == {} and all(load.refused_until == 0 for load in service.loads.values())


@pytest.mark.parametrize("request_", [GET, POST % 5, POST % 5 + b"abcde"])
def test_a_client_that_leaves_soon(request_: bytes) -> None:
    """Before the answer, or in the middle of what it sends."""
    with Playbook() as play:
        service = scene(play)
        client, _ = asks(play, request_)
        play.passes(0.5)
        client.breaks()
        assert held_against(service) == {} and service.circuit is not None and service.circuit.active == 0


def test_a_slow_upload() -> None:
    """A try's time runs from the last byte of the request, and so does what counts as slow."""
    with Playbook() as play:
        service = scene(play, timeout={"try": "500ms", "idle": "1m"})
        client, up = asks(play, POST % 5)
        for byte in b"abcd":
            play.passes(20)
            assert client >> bytes([byte])
        play.passes(20)
        assert client >> b"e"
        play.passes(0.3)
        assert up >> OK and client << b"HTTP/1.1 200 ..."
        assert held_against(service) == {} and slowest(service).ewma_s == pytest.approx(0.3, abs=0.05)


def test_an_upload_that_stops() -> None:
    """The 408 is the client's doing: it counts neither as a failure nor as an answer that was good."""
    with Playbook() as play:
        trip = {"trip": {"consecutive": 2}}
        service = scene(play, breaker=trip, timeout={"idle": "5s"}, outlier={})
        client, up = asks(play)
        assert up >> FAILED and client << b"HTTP/1.1 500 ..."
        client, _ = asks(play, POST % 5)
        play.passes(6)
        assert client << b"HTTP/1.1 408 ..." and service.circuit is not None and service.circuit.state == "closed"
        client, up = asks(play)
        assert up >> FAILED and client << b"HTTP/1.1 500 ..." and service.circuit.state == "open"


def test_a_client_that_reads_slowly() -> None:
    """Not while it reads, and not when it has stopped."""
    with Playbook() as play:
        service = scene(play, timeout={"idle": "30s"})
        client, up = asks(play)
        client.takes(0)
        assert up >> HEAD + b"x" * 400_000
        for _ in range(3):
            play.passes(20)
            client.takes(200_000)
            client.takes(0)
            assert up >> b"x" * 100_000
        play.passes(40)
        assert client.closed
        assert held_against(service) == {}


@pytest.mark.parametrize("rule", [{"delay": "3s"}, {"throttle": 1000}, {"abort": {"status": 503}}])
def test_what_is_done_on_purpose(rule: dict[str, Any]) -> None:
    """A fault policy's delays, slow answers and refusals."""
    with Playbook() as play:
        found = play.worker.table
        service = scene(play, fault={"expires": "2099-01-01T00:00:00Z", "rules": [rule]})
        client = play.client()
        assert client >> GET
        play.passes(4 if "delay" in rule else 0)
        if "abort" not in rule:
            assert play.upstream() >> b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000
        play.passes(10)
        assert client << b"HTTP/1.1 ..." and found.services[SERVICE].circuit is not None
        assert held_against(service) == {} and service.stats.active == 0


def test_what_is_meant_to_last() -> None:
    """A WebSocket of hours is not slow, nor is a stream of events, however they end."""
    with Playbook() as play:
        service = scene(play)
        client, up = asks(play, GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert up >> b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        play.passes(7000 / 2)
        client.breaks()
        client, up = asks(play)
        assert up >> b"HTTP/1.1 200 OK\r\n\r\nevent"
        for _ in range(5):
            play.passes(200)
            assert up >> b"event"
        client.breaks()
        assert held_against(service) == {}


def test_what_takes_its_time_is_no_hang() -> None:
    """Where good answers take two seconds, who leaves after three was not kept waiting; after seven it was."""
    with Playbook() as play:
        service = scene(play, breaker={"trip": {"consecutive": 1}, "endpoint": {"trip": {"consecutive": 1}}})
        for _ in range(12):
            client, up = asks(play)
            play.passes(2)
            assert up >> OK and client << b"HTTP/1.1 200 ..."
        client, _ = asks(play)
        play.passes(3)
        client.breaks()
        assert held_against(service) == {}
        client, _ = asks(play)
        play.passes(7)
        client.breaks()
        assert held_against(service).keys() == {"service", "endpoint", "outlier"}


# Theirs.


def everything(service: Service) -> bool:
    return held_against(service).keys() == {"service", "endpoint", "outlier"}


@pytest.mark.parametrize("impatient", [b"", b"X-Shoal-Deadline: 2000\r\n"])
def test_a_silence_that_nobody_waits_out(impatient: bytes) -> None:
    """A client that leaves after two seconds without an answer, or whose own deadline passes then, was kept waiting."""
    with Playbook() as play:
        service = scene(play)
        client, _ = asks(play, GET[:-2] + impatient + b"\r\n")
        play.passes(2.1)
        if not impatient:
            client.breaks()
        assert everything(service) and slowest(service).ewma_s == 5.0


def test_an_answer_that_breaks_off() -> None:
    """It began well: but each that does so is a failure, at the third like at the first."""
    with Playbook() as play:
        service = scene(play, outlier={"consecutive_5xx": 3}, breaker={"trip": {"consecutive": 3}})
        service.loads = {"one": service.loads["one"]}
        play.put("one", outlier={"consecutive_5xx": 3}, breaker={"trip": {"consecutive": 3}}, retry={"attempts": 1})
        record = service.loads["one"].record
        assert record is not None
        for n in range(3):
            assert record.row == n
            client, up = asks(play)
            assert up >> HEAD + b"half" and client << HEAD[:-2] + b"via: 1.1 shoal\r\n\r\nhalf"
            up.breaks()
            assert client.closed
        assert record.requests == 3 and service.circuit is not None and service.circuit.state == "open"


def test_an_answer_that_stops() -> None:
    """Nothing of it comes any more, and its client would take it."""
    with Playbook() as play:
        service = scene(play, timeout={"idle": "5s"})
        client, up = asks(play)
        assert up >> HEAD + b"half"
        play.passes(6)
        assert client.closed and everything(service)


def test_an_upload_that_the_endpoint_does_not_take() -> None:
    """The client waits, and the endpoint's time runs: a try's, or that of silence, which is not the client's."""
    for times, said in (({"try": "1s"}, b"HTTP/1.1 504 ..."), ({"idle": "1s"}, b"HTTP/1.1 504 ...")):
        with Playbook() as play:
            service = scene(play, timeout=times)
            client, up = asks(play, POST % 1_000_000)
            up.takes(0)
            assert client >> b"x" * 500_000
            play.passes(2)
            assert client << said and everything(service)


def test_an_upload_that_is_taken_again() -> None:
    """Once the endpoint goes on, it is the client that is waited for."""
    with Playbook() as play:
        service = scene(play, timeout={"try": "1s", "idle": "1m"})
        client, up = asks(play, POST % 1_000_000)
        up.takes(0)
        assert client >> b"x" * 500_000
        play.passes(0.5)
        up.takes(None)
        play.passes(20)
        assert client >> b"x" * 500_000
        play.passes(0.5)
        assert up >> OK and client << b"HTTP/1.1 200 ..." and held_against(service) == {}


def test_what_the_operator_allows() -> None:
    """A tenth of a second is short, but it is the service's own document that says so; less what the client took of
    it."""
    for late_s, found in ((0.0, True), (0.08, False)):
        with Playbook() as play:
            service = scene(play, timeout={"request": "100ms"})
            client, _ = asks(play, POST % 5)
            play.passes(late_s)
            assert client >> b"abcde"
            play.passes(0.2)
            assert client << b"HTTP/1.1 504 ..." and everything(service) == found


def test_an_instance_that_its_agent_cannot_reach() -> None:
    """What that agent answers is none of the instance's answers: it counts as a try without one."""
    outlier = {"consecutive_local_origin": 1, "consecutive_5xx": 2}
    for unsent, out in ((b"x-shoal-unsent: 1\r\n", 1), (b"", 0)):
        with Playbook() as play:
            play.put(*[play.instance(name, via=True, agent="another") for name in ("one", "two")], outlier=outlier)
            service = play.worker.table.services[SERVICE]
            _, up = asks(play)
            assert up >> b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n%b\r\n" % unsent
            assert service.ejector is not None and len(service.ejector.ejected()) == out


# What should not attract.


def burdens(play: Playbook) -> dict[str, float]:
    service, now = play.worker.table.services[SERVICE], play.worker.reactor.now
    return {name: round(burden(load, now), 1) for name, load in service.loads.items() if burden(load, now)}


@pytest.mark.parametrize(
    "said", [FAILED, FAILED.replace(b"500", b"429"), FAILED.replace(b"500 Oops", b"503 Full\r\nX-Shoal-Shed: 1")]
)
def test_what_fails_or_refuses_at_once(said: bytes) -> None:
    """It counts on as a request in flight, and fades; a 404 does not."""
    for answer, found in ((said, 1.0), (FAILED.replace(b"500", b"404"), 0.0)):
        with Playbook() as play:
            play.put(play.instance("one", via=True, agent="another"), retry={"attempts": 1})
            client, up = asks(play)
            assert up >> answer and client << b"HTTP/1.1 ..."
            assert burdens(play).get("one", 0.0) == found
            play.passes(5)
            assert burdens(play) == {}


def test_the_first_of_two_that_was_outrun() -> None:
    """Its load is remembered, and that it would have taken longer; a hedge that was not needed leaves nothing."""
    for first_wins in (False, True):
        with Playbook() as play:
            play.put("one", "two", retry={"hedge": {"after": "20ms"}, "attempts": 2})
            client, first = asks(play)
            play.passes(0.5)
            hedge = play.upstream()
            winner, loser = (first, hedge) if first_wins else (hedge, first)
            assert winner >> OK and client << b"HTTP/1.1 200 ..." and loser.closed
            assert burdens(play) == ({} if first_wins else {first.name: 1.0})
            loads = play.worker.table.services[SERVICE].loads
            assert first_wins or loads[first.name].ewma_s == pytest.approx(0.5, abs=0.05)
            assert all(load.active == 0 for load in loads.values())


def test_slowness_that_no_client_waits_for() -> None:
    """Each leaves after half a second: the endpoint's average says so, and not nothing."""
    with Playbook() as play:
        play.put("one", balance={"algorithm": "peak-ewma"})
        client, _ = asks(play)
        play.passes(0.5)
        client.breaks()
        load = play.worker.table.services[SERVICE].loads["one"]
        assert load.ewma_s == pytest.approx(0.5, abs=0.05) and load.failures == 0
