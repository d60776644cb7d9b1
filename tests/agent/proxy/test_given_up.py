"""Failures of what a service calls, and its own: which belong together, and what is made of that."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.instances.tokens import digest
from agent.proxy.given_up import KEEP_S, PLACES, GivenUp
from agent.proxy.http1.head import parse_request, parse_response
from agent.proxy.messages import words
from agent.proxy.messages.origin import origins, trace_id
from tests.support.playbook import Playbook, Wire

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "0af7651916cd43dd8448eb211c80319c"
SPAN = "00f067aa0ba902b7"
PETS = "pets.production"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def trace(id: str, version: str = "00", more: str = "") -> str:
    return f"Traceparent: {version}-{id}-{SPAN}-01{more}"


def request(service: str, *fields: str, caller: str = "") -> bytes:
    lines = ["GET /a HTTP/1.1", f"Host: {service}", *fields]
    if caller:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(f'{caller}:{caller}'.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def begun(given_up: GivenUp | None = None, seed: int = 1) -> Playbook:
    """pets, which calls cats, which is dead; and dogs, which does too."""
    play = Playbook(seed, host="here", given_up=given_up)
    play.worker.callers.configure({digest(name): name for name in (PETS, "dogs.production")})
    play.put(play.instance("one", agent="here"))
    play.put("tom", service="cats.production", retry={"attempts": 2})
    return play


def calls_in_vain(play: Playbook, head: bytes) -> bytes:
    """Every try is made; what the caller hears."""
    own = play.client()
    assert own >> head
    for _ in range(2):
        play.dialled("tom").refuses()
        play.passes(0.3)
    assert own << b"HTTP/1.1 503 ...x-shoal-no-retry: request=..." and play.idle
    return own.heard


def asks(play: Playbook, *fields: str, inbound: bool = False) -> tuple[Wire, Wire]:
    client = play.client(inbound=inbound)
    head = request(PETS, *fields)
    if inbound:
        head = head[:-2] + b"X-Shoal-Endpoint: pets.production/one\r\n\r\n"
    assert client >> head
    return client, play.upstream("one")


SAME = [
    (("X-Request-Id: 7",), ("X-Request-Id: 7",)),
    (("X-Request-Id: 7", trace(TRACE)), ("X-Request-Id: another", trace(TRACE))),
    ((trace(TRACE),), (trace(TRACE, "01", "-what-may-come"),)),
    (("X-Request-Id: 7", trace(TRACE)), ("X-Request-Id: 7", trace(OTHER))),
]
NOT_THE_SAME: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("X-Request-Id: 7",), ()),
    ((), ()),
    (("X-Request-Id: 7",), ("X-Request-Id: 8",)),
    (("X-Request-Id: 7", trace(TRACE)), ("X-Request-Id: 8", trace(OTHER))),
    ((trace("0" * 32),), (trace("0" * 32),)),
    ((trace(TRACE, "ff"),), (trace(TRACE, "ff"),)),
    (("Traceparent: x",), ("Traceparent: x",)),
    ((f"X-Request-Id: trace {TRACE}",), (trace(TRACE),)),
]


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("status", [BUSY, FAILED])
@pytest.mark.parametrize(
    ("asked", "called", "same"), [(*pair, True) for pair in SAME] + [(*pair, False) for pair in NOT_THE_SAME]
)
def test_a_failure_is_passed_on_where_it_belongs_to_the_request(
    asked: tuple[str, ...], called: tuple[str, ...], same: bool, status: bytes, inbound: bool
) -> None:
    """By its id or its trace, whichever listener it came by; services pass no header of ours on. Else nothing says so,
    and what can be tried again is."""
    with begun() as play:
        client, up = asks(play, *asked, inbound=inbound)
        calls_in_vain(play, request("cats.production", *called, caller=PETS))
        assert up >> status
        if status == BUSY and not inbound and not same:
            play.passes(0.3)
            assert client << b""
            assert play.upstream("one") << b"GET /a ...x-shoal-attempt: 2\r\n\r\n"
        else:
            assert (b"x-shoal-no-retry: " in client.heard) is same
            assert client << b"HTTP/1.1 50..." and play.idle


def test_what_says_nothing_of_the_request() -> None:
    """Another service's call, or nobody's; one before the request began, though it has the same id; one long ago; and
    one that was answered."""
    with begun() as play:
        play.put("rex", service="dogs.production")
        calls_in_vain(play, request("cats.production", "X-Request-Id: 7", caller=PETS))
        play.passes(0.1)
        client, up = asks(play, "X-Request-Id: 7")
        for caller in ("dogs.production", ""):
            calls_in_vain(play, request("cats.production", "X-Request-Id: 7", caller=caller))
        own = play.client()
        assert own >> request("cats.production", "X-Request-Id: 7", caller=PETS)
        assert play.upstream("tom") >> FAILED
        assert own << b"HTTP/1.1 500 ..."
        assert up >> FAILED
        assert b"no-retry" not in client.heard
        play.put(play.instance("one", agent="here"), timeout={"request": "100s"})
        client, up = asks(play, "X-Request-Id: 7")
        calls_in_vain(play, request("cats.production", "X-Request-Id: 7", caller=PETS))
        play.passes(KEEP_S + 1)
        assert up >> FAILED
        assert b"no-retry" not in client.heard


def test_it_is_the_service_of_the_instance_that_counts() -> None:
    """A route of shop leads to pets: it is pets whose calls fail, under its own name."""
    with begun() as play:
        play.put(service="shop.production", route={"rules": [{"split": [{"service": PETS}]}]})
        client = play.client()
        assert client >> request("shop.production", "X-Request-Id: 7")
        up = play.upstream("one")
        calls_in_vain(play, request("cats.production", "X-Request-Id: 7", caller=PETS))
        assert up >> BUSY
        assert client << b"HTTP/1.1 503 ...x-shoal-no-retry: request=7\r\n..." and play.idle


def test_a_failure_two_steps_deeper_is_passed_on() -> None:
    """The agent of cats' host says that all tries were made behind an answer that is not tried again here: pets, which
    hands nothing on but its id, is seen through all the same."""
    with begun() as play:
        play.put(play.instance("far", agent="there", via=True), service="cats.production")
        client, up = asks(play, "X-Request-Id: 7")
        own = play.client()
        assert own >> request("cats.production", "X-Request-Id: 7", caller=PETS)
        assert play.upstream("far") >> FAILED[:-2] + b"x-shoal-no-retry: 1\r\n\r\n"
        assert own << b"HTTP/1.1 500 ...x-shoal-no-retry: request=7\r\n..."
        assert up >> BUSY
        assert client << b"HTTP/1.1 503 ...x-shoal-no-retry: request=7\r\n..." and play.idle


def test_what_one_attempt_said_says_nothing_of_the_next() -> None:
    """An agent sent nothing on, and says besides that all tries were made; the instance that is asked then fails by
    itself."""
    with Playbook(host="here") as play:
        play.put(play.instance("far", agent="there", via=True), play.instance("two"), retry={"attempts": 3})
        client = play.client()
        service = play.worker.table.services[PETS]
        service.loads["two"].active = 9
        assert client >> request(PETS, "X-Request-Id: 7")
        assert play.upstream("far") >> BUSY[:-2] + b"x-shoal-unsent: 1\r\nx-shoal-no-retry: 1\r\n\r\n"
        assert play.upstream("two") >> BUSY
        play.passes(1)
        assert service.stats.failures["retries"] == 2 and client << b""


# Several workers of one agent.


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 8 * 1024)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("called", [7, 8])
def test_workers_share_what_they_know(memory: int, called: int) -> None:
    """The request came in by one, the call went out by another."""
    with begun(GivenUp(memory)) as one, begun(GivenUp(memory), 2) as two:
        client, up = asks(one, "X-Request-Id: 7")
        calls_in_vain(two, request("cats.production", f"X-Request-Id: {called}", caller=PETS))
        assert two.worker.reactor.now > one.worker.reactor.now, "the other's clock was looked at later"
        assert up >> FAILED
        assert (b"x-shoal-no-retry" in client.heard) is (called == 7)


ids = st.sampled_from([b"request %d" % n for n in range(4)])
steps = st.lists(
    st.tuples(st.sampled_from(["note", "ask"]), st.sampled_from("ab"), ids, st.floats(0, 20), st.floats(0, 40)),
    max_size=40,
)


@settings(max_examples=200)
@given(steps, st.sampled_from([0.0, 4_294_960.0, 1e7]))
def test_it_holds_what_it_was_told(steps: list[tuple[str, str, bytes, float, float]], start: float) -> None:
    """And nothing else: for each service and request the last time, until that is too long ago; also where a clock of
    32 bits begins anew."""
    table, now, told = GivenUp(), start, dict[tuple[str, bytes], float]()
    for do, service, id, passes, span in steps:
        now += passes
        if do == "note":
            table.note(service, id, now)
            told[service, id] = now
            continue
        age = now - told.get((service, id), -1e9)
        if abs(age - min(span, KEEP_S)) > 0.003:
            assert table.holds(service, id, now - span, now) is (age < min(span, KEEP_S))


def test_it_is_bounded_and_counts_what_it_loses(memory: int) -> None:
    """More at once than there are places: the latest are held, the size is as it was, and the loss is told."""
    table = GivenUp(memory)
    size = len(table._words)
    assert size == 1024 < PLACES
    for n in range(5000):
        table.note("a", b"%d" % n, 100.0)
    assert len(table._words) == size
    held = [table.holds("a", b"%d" % n, 99.0, 101.0) for n in range(5000)]
    assert held[-1] and sum(held) <= size
    assert table.noted == 5000 and table.lost == 5000 - sum(held)
    for n in range(5000):
        table.note("b", b"%d" % n, 101.0 + KEEP_S + n * KEEP_S)
    assert table.lost == 5000 - sum(held), "what is too old is no loss"


# Who says so.


@pytest.mark.parametrize(
    ("value", "of_service"),
    [(b"1", True), (b"request=7", True), (b"request=8", False), (b"request=", False), (b"2", False), (b"", False)],
)
def test_whose_word_it_is(value: bytes, of_service: bool) -> None:
    """An agent's is believed. A service speaks of itself, or hands on what it was told of a call for this request."""
    head = parse_response(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nX-Shoal-No-Retry: " + value, b"GET")
    assert words.says_tried(head, b"7", agent=False) is of_service
    assert words.says_tried(head, b"7", agent=True)


def test_what_is_handed_on_is_worth_nothing_for_another_request() -> None:
    """pets keeps an answer of cats with all of its header lines, and gives it to everybody."""
    with begun() as play:
        calls_in_vain(play, request("cats.production", "X-Request-Id: 7", caller=PETS))
        kept = BUSY[:-2] + b"X-Shoal-No-Retry: request=7\r\n\r\n"
        client, up = asks(play, "X-Request-Id: 8")
        assert up >> kept
        play.passes(0.3)
        assert client << b"", "it is tried again"
    with begun() as play:
        client, up = asks(play, "X-Request-Id: 7")
        assert up >> kept
        assert client << b"HTTP/1.1 503 ...x-shoal-no-retry: request=7\r\n..." and play.idle


def test_an_id_without_end_is_not_said_back_whole() -> None:
    """Heads of answers have bounds too."""
    assert len(words.tried(b"x" * 60_000)) < 300


@given(st.binary(max_size=70).map(lambda raw: bytes(b for b in raw if 33 <= b < 127)))
def test_any_traceparent(value: bytes) -> None:
    """Is either a trace of 32 digits, or none."""
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nTraceparent: " + value)
    found = trace_id(head)
    assert found == b"" or len(found) == 32
    assert origins(head, b"") == ([b"trace " + found] if found else [])
