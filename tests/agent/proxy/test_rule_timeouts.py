"""The times of a route's rule, in place of the service's: at the caller's agent, on the way, and at the instance's."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook

GET = b"GET /a HTTP/1.1\r\nHost: pets.production\r\n%b\r\n"
DELIVER = (
    b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nVia: 1.1 shoal\r\n"
    b"X-Shoal-Endpoint: pets.production/one\r\n%b\r\n"
)
LATE = b"HTTP/1.1 504 Gateway Timeout\r\n"


def rule(**timeout: Any) -> dict[str, Any]:
    return {"rules": [{"match": {"path": {"prefix": "/a"}}, "timeout": timeout}]}


@pytest.mark.parametrize(
    ("route", "timeout", "asked", "lasts_s", "told_ms"),
    [
        (rule(request="2s"), None, b"", 2.0, 2000),
        (rule(request="2s"), {"request": "9s"}, b"", 2.0, 2000),
        (rule(request="30s"), {"request": "9s"}, b"", 30.0, 30000),
        (rule(request="30s"), None, b"", 30.0, 30000),
        (rule(request="30s"), {"request": 0}, b"", 30.0, 30000),
        (rule(request="30s"), {"request": "9s"}, b"X-Shoal-Deadline: 4000\r\n", 4.0, 4000),
        (rule(request="3s"), {"request": "9s"}, b"X-Shoal-Deadline: 4000\r\n", 3.0, 3000),
        (rule(request="30s"), {"request": "9s"}, b"X-Shoal-Deadline: 40000\r\n", 30.0, 30000),
        (rule(**{"try": "1s"}), {"request": "9s"}, b"", 1.0, 9000),
        (rule(**{"try": "5s"}), {"try": "1s"}, b"", 5.0, None),
        (rule(request="4s"), {"try": "1s"}, b"", 1.0, 4000),
        ({**rule(request="2s"), "mode": "audit"}, {"request": "9s"}, b"", 9.0, 9000),
        ({"rules": [{"match": {"path": {"prefix": "/b"}}, "timeout": {"request": "2s"}}]}, None, b"", 15.0, None),
    ],
)
def test_the_rules_time_is_in_place_of_the_policys(
    route: dict[str, Any], timeout: Any, asked: bytes, lasts_s: float, told_ms: int | None
) -> None:
    """Be it shorter or longer; the rest stays the service's; what the caller has left bounds both, and is told on."""
    with Playbook() as play:
        play.put("one", route=route, retry={"attempts": 1}, **({"timeout": timeout} if timeout else {}))
        client = play.client()
        assert client >> GET % asked
        up = play.upstream("one")
        told = re.search(rb"x-shoal-deadline: ([0-9]+)\r\n", up.heard)
        assert (int(told[1]) if told else None) == told_ms
        play.passes(lasts_s - 0.1)
        assert client.heard == b""
        play.passes(0.3)
        assert client.heard.startswith(LATE)


def test_the_time_is_for_all_tries_and_for_the_body() -> None:
    """It does not begin anew, and cuts an answer that does not come whole."""
    with Playbook() as play:
        play.put("one", route=rule(request="2s"), timeout={"request": "1s"})
        client = play.client()
        assert client >> GET % b""
        up = play.upstream("one")
        play.passes(1.5)
        assert up >> b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
        assert client.heard.startswith(b"HTTP/1.1 200 OK") and not client.closed
        play.passes(0.6)
        assert client.closed


TOLD = b"X-Shoal-Deadline: 30000\r\n"


@pytest.mark.parametrize(
    ("rule_s", "timeout", "fields", "peer", "lasts_s"),
    [
        ("60s", {"request": "2s"}, TOLD, "127.0.0.1", 30.0),
        ("60s", None, TOLD, "127.0.0.1", 30.0),
        ("10s", {"request": "2s"}, TOLD, "127.0.0.1", 10.0),
        ("10s", {"request": "2s"}, b"", "127.0.0.1", 10.0),
        ("10s", {"request": "20s"}, TOLD, "127.0.0.1", 20.0),
        (None, {"request": "2s"}, TOLD, "127.0.0.1", 2.0),
        ("60s", {"request": "2s"}, TOLD, "127.0.0.66", 2.0),
        ("60s", {"request": "2s"}, b"X-Shoal-Deadline: 1000\r\n", "127.0.0.1", 1.0),
        ("60s", {"try": "1s", "request": "4s"}, TOLD, "127.0.0.1", 9.0),
        ("60s", {"try": "1s", "request": "4s"}, b"", "127.0.0.66", 1.0),
    ],
)
def test_at_the_instances_agent_the_longest_that_a_rule_gives_bounds_what_is_told(
    rule_s: str | None, timeout: Any, fields: bytes, peer: str, lasts_s: float
) -> None:
    """The calling agent knows which rule decided. Who is no agent gets no longer than the policy says, whatever he
    claims; and without rules the policy bounds agents too."""
    with Playbook(host="here") as play:
        route = {"route": rule(request=rule_s, **{"try": "9s"})} if rule_s else {}
        play.put(play.instance("one", agent="here"), **route, **({"timeout": timeout} if timeout else {}))
        client = play.client(inbound=True, peer=peer)
        assert client >> DELIVER % fields
        play.upstream("one")
        play.passes(lasts_s - 0.1)
        assert client.heard == b""
        play.passes(0.3)
        assert client.heard.startswith(LATE)


def test_explain_shows_whose_time_it_is() -> None:
    """The rule's, with the route's name; the policy's where the rule says nothing."""
    with Playbook() as play:
        play.put("one", route=rule(request="30s"), timeout={"request": "9s", "try": "3s"})
        for path, policy, times in (
            ("/a", "route", "try 3 s, request 30 s"),
            ("/b", "timeout", "try 3 s, request 9 s"),
        ):
            told = explain(play.worker, Explain(f"http://pets.production{path}"))["decisions"]
            (entry,) = [each for each in told if each["phase"] == "timeout"]
            assert entry["policy"].startswith(f"{policy}/") and times in entry["decision"]
            assert ("the rule's own request" in entry["reason"]) == (path == "/a")
