"""Over two hops the caller's agent tells of what failed as on one host: the agent beside the instance knows why, and
tells it (`x-shoal-flag`). What the caller's agent has decided is no fault of its client's there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent.proxy.messages.flags import FLAGS, is_flag
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import GET, SERVICE

POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TRACE = {"share": 1}
TIMEOUT = {"connect": "1s", "request": "2s"}
HEDGE = {"hedge": {"after": "20ms"}, "attempts": 2}
MET = b"x-shoal-endpoint: pets.production/one\r\n\r\n"


class Hops:
    """The caller's agent, here, and the one beside the only instance, there."""

    def __init__(self, here: Playbook, there: Playbook, documents: dict[str, Any]) -> None:
        self.here, self.there = here, there
        for play in (here, there):
            play.worker.recorder.keep(True)
            play.worker.spans.wanted = True
        here.put(here.instance("one", agent="there", via=True), trace=TRACE, **documents)
        there.put(there.instance("one", agent="there"), trace=TRACE, **documents)
        self.client = here.client()
        self.near: Wire | None = None
        self.far: Wire | None = None

    def asks(self, request: bytes = GET) -> None:
        """Up to the agent there."""
        assert self.client >> request
        self.hop()

    def hop(self) -> None:
        """What was sent goes over."""
        if not self.here.idle:
            self.near, self.far = self.here.upstream(), self.there.client(inbound=True)
        assert self.near is not None and self.far is not None
        said, self.near.heard = self.near.heard, b""
        if said:
            assert self.far >> said

    def back(self) -> None:
        """What is answered comes back."""
        assert self.near is not None and self.far is not None
        said, self.far.heard = self.far.heard, b""
        assert self.near >> said

    def passes(self, seconds: float) -> None:
        self.there.passes(seconds)
        self.here.passes(seconds)


@contextmanager
def hops(**documents: Any) -> Iterator[Hops]:
    with Playbook(host="here") as here, Playbook(host="there") as there:
        yield Hops(here, there, {"retry": {"attempts": 1}, "timeout": TIMEOUT, **documents})


def record(play: Playbook) -> Any:
    frame = play.worker.recorder.take(1000)
    (found,) = [json.loads(line) for line in frame.lines.splitlines()] if frame else []
    assert bool(found["why"]) >= bool(found["flag"])
    return found


def spans(play: Playbook) -> list[dict[str, Any]]:
    frame = play.worker.spans.take(1000)
    return [json.loads(line) for line in frame.lines.splitlines()] if frame else []


def stats(play: Playbook) -> Any:
    return play.worker.table.services[SERVICE].stats


def fails(play: Playbook, how: str) -> None:
    """The instance does, or what leads to it."""
    if how == "connect":
        play.dialled().refuses()
    elif how == "connect_timeout":
        play.dialled()
        play.passes(1.1)
    elif how == "reset":
        play.upstream().breaks()
    elif how == "broken":
        assert play.upstream() >> b"SSH-2.0-OpenSSH\r\n\r\n"
    else:
        play.upstream()
        play.passes(2.1)


def seen(play: Playbook) -> dict[str, Any]:
    """What is the same over one hop and over two."""
    found, failed = record(play), stats(play).failures
    client, *_ = spans(play)
    return {
        **{name: found[name] for name in ("status", "flag", "failed", "first_byte_s", "attempts")},
        "why": bool(found["why"]),
        "kinds": failed,
        "error": client["error"],
        "flagged": stats(play).flagged,
    }


HOW = {
    "connect": ("connect", "connect", "no connection"),
    "connect_timeout": ("connect_timeout", "connect", "no connection"),
    "reset": ("reset", "reset", "broken off"),
    "broken": ("bad_response", "bad_response", "a broken answer"),
    "timeout": ("timeout", "timeout", "no answer in time"),
}


@pytest.mark.parametrize("how", HOW)
def test_what_fails_there_is_told_here_as_on_one_host(how: str) -> None:
    """Records, counters and spans."""
    error, kind, failed = HOW[how]
    with Playbook(host="here") as alone:
        alone.worker.recorder.keep(True)
        alone.worker.spans.wanted = True
        alone.put(alone.instance("one"), trace=TRACE, retry={"attempts": 1}, timeout=TIMEOUT)
        assert alone.client() >> GET
        fails(alone, how)
        one = seen(alone)
    with hops() as both:
        both.asks()
        fails(both.there, how)
        both.back()
        two = seen(both.here)
        assert two == one
        flag = f"service.{how}"
        assert (two["flag"], two["error"], two["kinds"]) == (flag, error, {kind: 1})
        assert two["failed"] == [f"one: {failed}"] and two["first_byte_s"] is None
        assert two["flagged"] == {f"{flag}\tfirst": 1}
        assert b"x-shoal-flag" not in both.client.heard
        far = record(both.there)
        assert (far["flag"], far["status"]) == (flag, two["status"])
        assert stats(both.there).flagged == {f"{flag}\tsecond": 1} and stats(both.there).failures == {kind: 1}
        assert [span["error"] for span in spans(both.there)] == [error]


def test_the_reason_is_the_one_that_the_client_is_told() -> None:
    """With why there was no other try."""
    with hops() as both:
        both.asks()
        both.there.dialled().refuses()
        both.back()
        why = record(both.here)["why"]
        assert why.endswith("Connection refused; 1 of 1 attempts made")
        assert f"x-shoal-reason: {why}\r\n".encode() in both.client.heard


def test_each_of_several_tries_has_its_own_error() -> None:
    """One that was reset there, and one that went well: nothing is wrong with the whole."""
    with hops(retry={"attempts": 2}) as both:
        both.asks()
        both.there.upstream().breaks()
        both.back()
        both.here.passes(0.3)
        both.hop()
        assert both.there.upstream() >> OK
        both.back()
        whole, first, second = spans(both.here)
        assert "error" not in whole and first["error"] == "reset" and "error" not in second
        assert "http.response.status_code" not in first["attributes"]
        assert stats(both.here).failures == {"reset": 1, "retries": 1}
        found = record(both.here)
        assert (found["flag"], found["failed"], found["status"]) == ("", ["one: broken off"], 200)


def test_a_policys_time_is_no_deadline_of_the_clients() -> None:
    """And one that the client has asked for is."""
    for asked, flag in ((b"", "service.timeout"), (b"X-Shoal-Deadline: 500\r\n", "client.deadline")):
        with hops() as both:
            both.asks(GET[:-2] + asked + b"\r\n")
            both.there.upstream()
            both.there.passes(2.1)
            both.back()
            assert record(both.there)["flag"] == record(both.here)["flag"] == flag


@pytest.mark.parametrize(
    ("asked", "flag"), [(b"", "service.timeout"), (b"X-Shoal-Deadline: 500\r\n", "client.deadline")]
)
def test_whose_clock_is_the_first_makes_no_difference(asked: bytes, flag: str) -> None:
    """The calling agent closes a moment before the one there would have answered."""
    with hops() as both:
        both.asks(GET[:-2] + asked + b"\r\n")
        both.there.upstream()
        both.here.passes(2.1)
        both.there.passes(0.49 if asked else 1.99)
        assert both.far is not None and both.near is not None and both.near.closed
        both.far.ends()
        assert record(both.there)["flag"] == record(both.here)["flag"] == flag
        assert [span["error"] for span in spans(both.there)] == ["timeout"]
        assert stats(both.there).as_frame()["requests"] == {"cancelled": 1}
        assert stats(both.there).failures == {"timeout": 1} == stats(both.here).failures


def test_a_client_of_no_patience_proves_nothing_there_either() -> None:
    """Of the instance or the service: no breaker opens, nobody is taken out, and nothing is tried again."""
    breaker = {"trip": {"consecutive": 1}}
    with hops(retry={"attempts": 3}, breaker=breaker, outlier={"consecutive_5xx": 1}) as both:
        for _ in range(3):
            both.asks(GET[:-2] + b"X-Shoal-Deadline: 100\r\n\r\n")
            both.there.upstream()
            both.there.passes(0.2)
            both.back()
            assert both.client.heard.startswith(b"HTTP/1.1 504 ")
            both.client.heard = b""
            found = record(both.here)
            assert (found["flag"], found["failed"], found["attempts"]) == ("client.deadline", [], 1)
        assert stats(both.here).failures == {"timeout": 3} and stats(both.here).ejections == {}
        assert stats(both.here).transitions == {}


def test_an_instance_is_told_how_long_and_not_by_whom() -> None:
    """Nor is what a client says of that believed."""
    with hops() as both:
        both.asks(GET[:-2] + b"X-Shoal-Deadline: 500\r\nX-Shoal-Deadline-By: policy\r\n\r\n")
        up = both.there.upstream()
        assert b"x-shoal-deadline: " in up.heard and b"x-shoal-deadline-by" not in up.heard.lower()
        both.there.passes(1.0)
        assert record(both.there)["flag"] == "client.deadline"


def test_what_an_instance_says_of_flags_is_not_believed() -> None:
    """Neither of one that is dialled, nor of one behind another agent."""
    says = b"HTTP/1.1 502 X\r\nX-Shoal-Policy: endpoint\r\nX-Shoal-Flag: service.reset\r\nContent-Length: 0\r\n\r\n"
    with hops() as both:
        both.asks()
        assert both.there.upstream() >> says
        both.back()
        found = record(both.here)
        assert (found["flag"], found["why"], found["failed"]) == ("", "", ["one: status 502"])
        assert stats(both.here).failures == {"status": 1} and found["first_byte_s"] is not None
    with Playbook() as alone:
        alone.worker.recorder.keep(True)
        alone.put("one", retry={"attempts": 1})
        assert alone.client() >> GET
        assert alone.upstream() >> says
        assert record(alone)["flag"] == ""


@pytest.mark.parametrize("said", ["service.nothing", "policy.", "policy." + "x" * 40, "policy.a b", ""])
def test_what_is_no_flag_is_found_by_the_policy(said: str) -> None:
    """As of an agent that tells none."""
    assert not is_flag(said) and all(is_flag(flag) for flag in (*FLAGS, "policy.shed"))
    answer = f"HTTP/1.1 502 X\r\nX-Shoal-Policy: endpoint\r\nX-Shoal-Flag: {said}\r\nContent-Length: 0\r\n\r\n"
    with Playbook(host="here") as play:
        play.worker.recorder.keep(True)
        play.put(play.instance("one", agent="there", via=True), retry={"attempts": 1})
        assert play.client() >> GET
        assert play.upstream() >> answer.encode()
        assert record(play)["flag"] == "service.reset"


def test_who_is_no_agent_is_told_no_flag() -> None:
    """It is between agents."""
    with Playbook(host="there") as play:
        play.put(play.instance("one", agent="there"), retry={"attempts": 1})
        for peer, told in (("203.0.113.7", False), (None, True)):
            client = play.client(inbound=True, peer=peer) if peer else play.client(inbound=True)
            assert client >> GET[:-2] + MET
            play.dialled().refuses()
            assert (b"\r\nx-shoal-flag: service.connect\r\n" in client.heard) is told


def test_a_post_is_tried_elsewhere_when_the_agent_there_got_no_connection_in_time() -> None:
    """Nothing of it was sent, and it says so."""
    with hops(retry={"attempts": 2, "on": ["connect-failure"]}) as both:
        both.asks(POST)
        fails(both.there, "connect_timeout")
        both.back()
        both.here.passes(0.5)
        both.hop()
        assert both.there.upstream() >> OK
        both.back()
        assert record(both.here)["status"] == 200 and stats(both.here).failures == {"connect": 1, "retries": 1}


# What the caller's agent gives up.


def test_who_loses_a_hedge_has_lost_no_client() -> None:
    """Nobody's fault, and no client that went away: in records, counters and spans there."""
    with hops() as both:
        for play, via in ((both.here, True), (both.there, False)):
            play.put(
                *[play.instance(name, agent="there", via=via) for name in ("one", "two")], trace=TRACE, retry=HEDGE
            )
        both.asks(GET)
        slow = both.far
        assert slow is not None
        both.there.upstream()
        lost = both.near
        both.here.passes(0.05)
        won = both.here.upstream()
        assert won >> OK
        assert lost is not None and lost.closed
        slow.ends()
        found = record(both.there)
        assert (found["status"], found["flag"]) == (0, "agent.cancelled")
        (edge,) = stats(both.there).signals.edges.values()
        assert edge.requests == [0, 0, 0, 0, 0, 0, 1]
        assert stats(both.there).as_frame()["requests"] == {"cancelled": 1}
        (span,) = spans(both.there)
        assert "error" not in span and span["attributes"]["shoal.cancelled"] is True
        assert record(both.here)["flag"] == ""


def test_a_caller_without_an_agent_goes_away_itself() -> None:
    """There is nobody else who could."""
    with Playbook(host="there") as play:
        play.worker.recorder.keep(True)
        play.put(play.instance("one", agent="there"))
        client = play.client(inbound=True, peer="203.0.113.7")
        assert client >> GET
        play.upstream()
        client.ends()
        assert record(play)["flag"] == "client.gone"


def test_what_is_given_up_is_no_failure_to_a_log_document() -> None:
    """`requests: errors` does not take it, nor who follows what failed."""
    with Playbook(host="there") as play:
        play.worker.recorder.keep(True)
        play.put(play.instance("one", agent="there"), log={"requests": "errors"})
        client = play.client(inbound=True)
        assert client >> GET[:-2] + MET
        play.upstream()
        client.ends()
        assert play.worker.recorder.take(10) is None


# On one host.


def test_the_instances_side_of_what_took_too_long_has_failed() -> None:
    """It would look healthy otherwise, at a second and more."""
    with Playbook(host="here") as play:
        play.worker.spans.wanted = True
        play.put(play.instance("one", agent="here"), trace=TRACE, timeout={"request": "1s"}, retry={"attempts": 1})
        assert play.client() >> GET
        play.upstream()
        play.passes(1.1)
        client, server = spans(play)
        assert (client["error"], server["error"]) == ("timeout", "timeout")
        assert "shoal.cancelled" not in client["attributes"]


@pytest.mark.parametrize(("method", "size"), [(b"GET", True), (b"HEAD", False)])
def test_bytes_of_an_answer_of_our_own_are_counted(method: bytes, size: bool) -> None:
    """A body, where there is one."""
    with Playbook() as play:
        play.worker.recorder.keep(True)
        play.put("one", retry={"attempts": 1})
        client = play.client()
        assert client >> GET.replace(b"GET", method)
        play.dialled().refuses()
        body = client.heard.partition(b"\r\n\r\n")[2]
        assert bool(body) is size and record(play)["bytes_out"] == len(body)


@pytest.mark.parametrize("on", ["connect-failure", "reset", "timeout", "gateway-error"])
@pytest.mark.parametrize("how", ["connect", "reset", "timeout"])
def test_what_is_tried_again_is_so_as_on_one_host(how: str, on: str) -> None:
    """By how it failed, and not by the status that the agent beside the instance made of it."""
    documents = {"retry": {"attempts": 2, "on": [on]}, "timeout": {**TIMEOUT, "try": "1s"}}

    def fails_once(play: Playbook) -> None:
        if how == "timeout":
            play.upstream()
            play.passes(1.05)
        else:
            fails(play, how)

    with Playbook(host="here") as alone:
        alone.put(alone.instance("one"), **documents)
        client = alone.client()
        assert client >> GET
        fails_once(alone)
        again = not client.heard
    with hops(**documents) as both:
        both.asks()
        fails_once(both.there)
        both.back()
        assert (not both.client.heard) == again
    assert again == (on == {"connect": "connect-failure"}.get(how, how))


@pytest.mark.parametrize("kind", ["isolation", "path"])
def test_what_both_ends_watch_is_counted_once(kind: str) -> None:
    """By the caller's agent; whoever adds up what all hosts have counted has each request once."""
    document = {"isolation": {"allow": ["*.staging"]}, "path": {"action": "refuse"}}[kind]
    with hops(audits={kind: document}) as both:
        both.asks(GET.replace(b" / ", b" /a/../b "))
        assert both.there.upstream() >> OK
        both.back()
        assert b" 200 " in both.client.heard
        counted = [sum(stats(play).audit.values()) for play in (both.here, both.there)]
        assert counted == [1, 0]
