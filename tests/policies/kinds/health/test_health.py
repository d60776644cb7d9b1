"""`health`: the document, and when an instance changes sides."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.health.decide import Tracker, Transition, pause_s
from policies.kinds.health.document import HealthPolicy
from policies.language.document import Invalid


def health(**fields: Any) -> HealthPolicy:
    found = parse("health", "pets", json.dumps(fields).encode())
    assert isinstance(found, HealthPolicy), found
    return found


def told(tracker: Tracker, results: str) -> str:
    """Results as `+` and `-`, transitions as `H` and `U`, nothing as `.`."""
    found = (tracker.observe(result == "+", "said") for result in results)
    return "".join("." if one is None else "H" if one.healthy else "U" for one in found)


def test_a_newcomer_is_healthy_with_its_first_success() -> None:
    """It has nothing to recover from. Why it fails is told once, when it has failed often enough."""
    assert told(Tracker(health(ttl="5s", rise=3, fall=3)), "--+") == "..H"
    assert told(Tracker(health(ttl="5s", rise=3, fall=3)), "-----+") == "..U..H"


def test_falling_takes_failures_in_a_row() -> None:
    """A success in between begins anew."""
    assert told(Tracker(health(ttl="5s", fall=3)), "+--+--+---") == "H........U"


def test_rising_takes_successes_in_a_row() -> None:
    """A failure in between begins anew."""
    assert told(Tracker(health(ttl="5s", fall=1, rise=2)), "+-+-++") == "HU...H"


def test_one_that_counts_as_healthy_first_has_to_rise_too() -> None:
    """Once it was found to have fallen; its first success is no transition, since it counted as healthy."""
    assert told(Tracker(health(ttl="5s", fall=2, rise=2, initially=True)), "+") == "."
    assert told(Tracker(health(ttl="5s", fall=2, rise=2, initially=True)), "--+-++") == ".U...H"


def test_a_transition_carries_its_reason() -> None:
    """That of the result that brought it about."""
    tracker = Tracker(health(ttl="5s", fall=2))
    assert tracker.observe(True, "answered 200") == Transition(True, "answered 200")
    assert tracker.observe(False, "answered 500") is None
    assert tracker.observe(False, "no answer") == Transition(False, "no answer")


@given(st.text("+-", max_size=60), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_transitions_alternate_and_are_earned(results: str, rise: int, fall: int, initially: bool) -> None:
    """A side is only left after as many results in a row as the document says; but for the first success."""
    tracker = Tracker(health(ttl="5s", rise=rise, fall=fall, initially=initially))
    side, judged = initially, False
    transitions = told(tracker, results)
    for n, transition in enumerate(transitions):
        so_far = results[: n + 1]
        if transition == "H":
            assert not side
            assert so_far.endswith("+" * rise) if judged else so_far.strip("-") == "+"
        elif transition == "U" and not side:
            assert not judged and so_far == "-" * fall, "why it is still starting is told once"
            continue
        elif transition == "U":
            assert so_far.endswith("-" * fall)
        judged = judged or transition != "." or "+" in so_far
        side = side if transition == "." else transition == "H"
    assert tracker.healthy == side
    if results.endswith("+" * max(rise, 1)):
        assert tracker.healthy
    if results.endswith("-" * fall):
        assert not tracker.healthy


def test_an_edited_document_keeps_the_verdict() -> None:
    """Thresholds change, what was found does not."""
    tracker = Tracker(health(ttl="5s", fall=5))
    assert told(tracker, "+---") == "H..."
    tracker.adopt(health(ttl="5s", fall=2))
    assert tracker.healthy
    assert told(tracker, "-") == "U"


@given(st.floats(0, 1), st.floats(0.05, 3600), st.integers())
def test_checks_do_not_march_in_step(jitter: float, interval_s: float, seed: int) -> None:
    """The pause is the interval, give or take its jitter."""
    policy = health(ttl="5s", interval=interval_s, jitter=jitter)
    pause = pause_s(policy, random.Random(seed))
    assert pause >= 0
    assert abs(pause - interval_s) <= interval_s * (jitter + 1e-9)


@pytest.mark.parametrize(
    "fields",
    [
        {"http": {}},
        {"http": {"path": "/ready?deep=1", "method": "HEAD", "statuses": [200, 429], "headers": {"x-check": "1"}}},
        {"http": {"host": "pets.internal", "body": "ok", "port": 9000}},
        {"tcp": {}},
        {"tcp": {"send": "PING\r\n", "expect": "+PONG", "port": 6379}},
        {"command": {"argv": ["/usr/bin/true"]}},
        {"ttl": "30s"},
        {"http": {}, "interval": "50ms", "timeout": "1h", "jitter": 0, "rise": 1, "fall": 100, "initially": True},
    ],
)
def test_ways_to_check(fields: dict[str, Any]) -> None:
    """HTTP, TCP, a command, or the instance's own word."""
    assert health(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "$: exactly one of http, tcp, command and ttl says how to check; here: none of them"),
        ({"http": {}, "tcp": {}},
         "$: exactly one of http, tcp, command and ttl says how to check; here: http and tcp together"),
        ({"grpc": {}}, "$: no field 'grpc' here; there are: mode, kind, service, description, http, tcp, command, ttl, "
         "interval, jitter, timeout, rise, fall, initially"),
        ({"http": {"path": "health"}}, "$.http.path: expected a path, which begins with /, without spaces"),
        ({"http": {"path": "/x\n"}}, "$.http.path: expected a path, which begins with /, without spaces"),
        ({"http": {"path": "/ HTTP/1.1"}}, "$.http.path: expected a path, which begins with /, without spaces"),
        ({"http": {"method": "get"}}, "$.http.method: expected a method in upper case, such as GET"),
        ({"http": {"statuses": 200}}, "$.http.statuses: expected a list, got a whole number"),
        ({"http": {"statuses": [100]}}, "$.http.statuses[0]: expected a whole number >= 200"),
        ({"http": {"headers": {"Host": "x"}}},
         "$.http.headers.Host: no header that a check can set (for Host use $.http.host)"),
        ({"http": {"headers": {"x": "a\r\nb: c"}}}, "$.http.headers.x: a value is printable ASCII on one line"),
        ({"http": {"host": "a b"}}, "$.http.host: 'a b' is no host name"),
        ({"http": {"host": "a\r\nb: c"}}, "$.http.host: 'a\\r\\nb: c' is no host name"),
        ({"http": {"method": "HEAD", "body": "ok"}},
         "$.http.body: the answer to HEAD has no body to look into; use GET"),
        ({"http": {"port": 65536}}, "$.http.port: expected a whole number <= 65535"),
        ({"command": {"argv": []}}, "$.command.argv: expected a list of length >= 1"),
        ({"command": {"argv": "true"}}, "$.command.argv: expected a list, got text"),
        ({"command": {"argv": [" "]}}, "$.command.argv[0]: names no program"),
        ({"command": {"argv": ["x", "a\0b"]}}, "$.command.argv[1]: a NUL character, which no argument can have"),
        ({"command": {}}, "$.command: missing field 'argv'"),
        ({"tcp": {}, "interval": "1ms"}, "$.interval: 0.001 s; from 0.05 s to 3600 s"),
        ({"tcp": {}, "timeout": 0}, "$.timeout: 0 s; from 0.05 s to 3600 s"),
        ({"ttl": "2h"}, "$.ttl: 7200 s; from 0.05 s to 3600 s"),
        ({"tcp": {}, "rise": 0}, "$.rise: expected a whole number >= 1"),
        ({"tcp": {}, "jitter": 1.5}, "$.jitter: expected a number <= 1.0"),
        ({"tcp": {}, "initially": "yes"}, "$.initially: expected true or false, got text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(fields: dict[str, Any], said: str) -> None:
    """Word by word."""
    found = parse("health", "pets", json.dumps(fields).encode())
    assert isinstance(found, Invalid)
    assert f"{found.path}: {found.reason}" == said
