"""Over two hops: what the agent beside an instance says of its refusal reaches whoever called, with why nobody else was
tried."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.playbook import Playbook
from tests.support.proxy import GET, OK

POST = b"POST / HTTP/1.1\r\nHost: pets.production\r\nContent-Length: 0\r\n\r\n"


def refused(**documents: Any) -> bytes:
    """What the agent beside the instance answers to what it does not let in."""
    with Playbook(host="there") as play:
        play.put(play.instance("one", agent="there"), **documents)
        client = play.client(inbound=True)
        assert client >> GET[:-2] + b"x-shoal-endpoint: pets.production/one\r\n\r\n"
        if not play.idle:
            play.dialled().refuses()
        heard, client.heard = client.heard, b""
        return heard


def far(play: Playbook, *names: str, **documents: Any) -> None:
    play.put(*[play.instance(name, agent="there", via=True) for name in names], **documents)


def told(heard: bytes) -> dict[str, str]:
    """The mesh's words in an answer."""
    lines = [line.partition(b": ") for line in heard.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    return {name.decode(): value.decode() for name, _, value in lines if name.startswith(b"x-shoal-")}


def answered(play: Playbook, says: bytes, request: bytes = GET) -> dict[str, str]:
    """What the caller is told, when every try gets this answer."""
    client = play.client()
    assert client >> request
    while not play.idle:
        assert play.upstream() >> says.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        play.passes(1.0)
    heard, client.heard = client.heard, b""
    return told(heard)


@pytest.mark.parametrize(
    ("request_", "retry", "attempts", "why"),
    [
        (GET, {"attempts": 2}, "2", "2 of 2 attempts made"),
        (POST, {"attempts": 3}, "3", "3 of 3 attempts made"),
        (GET, {"attempts": 1}, "1", "1 of 1 attempts made"),
    ],
)
def test_a_failure_says_after_how_many_tries_and_why_there_is_no_other(
    request_: bytes, retry: dict[str, Any], attempts: str, why: str
) -> None:
    says = refused()
    with Playbook(host="here") as play:
        far(play, "one", retry=retry)
        found = answered(play, says, request_)
        assert (found["x-shoal-policy"], found["x-shoal-attempts"]) == ("endpoint", attempts)
        assert "refused" in found["x-shoal-reason"].lower() and why in found["x-shoal-reason"]


@pytest.mark.parametrize(
    "documents",
    [
        {"ratelimit": {"limits": [{"name": "all", "rate": "1/h", "side": "service", "match": {"caller": ["none"]}}]}},
        {"ratelimit": {"limits": [{"name": "all", "rate": "1/h", "side": "service"}]}},
    ],
)
def test_a_refusal_says_which_policy_and_why(documents: dict[str, Any]) -> None:
    """As the far agent says it; where nobody was refused it says nothing."""
    with Playbook(host="there") as there, Playbook(host="here") as here:
        there.put(there.instance("one", agent="there"), **documents)
        far(here, "one")
        deliver = GET[:-2] + b"x-shoal-endpoint: pets.production/one\r\n\r\n"
        for _ in range(2):
            client = there.client(inbound=True)
            assert client >> deliver
            if not there.idle:
                up = there.upstream()
                assert up >> OK
                up.breaks()
        found = answered(here, client.heard)
        if "match" in str(documents):
            assert found == {}
        else:
            assert (found["x-shoal-policy"], found["x-shoal-attempts"]) == ("ratelimit", "1")
            assert found["x-shoal-reason"] == "the limit all of this agent, beside the service, 1/h, is used up"


def test_an_instance_says_nothing_in_the_meshs_name() -> None:
    """Neither one that is dialled directly, nor one behind another agent, which takes it out."""
    own = b"HTTP/1.1 500 X\r\nx-shoal-policy: mine\r\nx-shoal-reason: because\r\nContent-Length: 0\r\n\r\n"
    with Playbook(host="here") as play:
        play.put("one", retry={"attempts": 1})
        assert answered(play, own) == {}
    with Playbook(host="there") as play:
        play.put(play.instance("one", agent="there"))
        client = play.client(inbound=True)
        assert client >> GET[:-2] + b"x-shoal-endpoint: pets.production/one\r\n\r\n"
        assert play.upstream() >> own
        assert told(client.heard) == {}


def test_a_reason_is_one_line_of_what_can_be_read() -> None:
    """And not endless."""
    with Playbook(host="here") as play:
        far(play, "one", retry={"attempts": 1})
        reason = b"\xe9" + b"y" * 900
        odd = b"HTTP/1.1 503 X\r\nx-shoal-policy: shed\r\nx-shoal-reason: %b\r\nContent-Length: 0\r\n\r\n" % reason
        found = answered(play, odd)
        assert found["x-shoal-reason"].isascii() and len(found["x-shoal-reason"]) <= 400


@pytest.mark.parametrize(
    ("documents", "policy"),
    [({"ratelimit": {"limits": [{"name": "all", "rate": "1/h", "side": "service"}]}}, "ratelimit"), ({}, "endpoint")],
)
def test_a_refusal_is_counted_once_by_who_meets_a_request_first(documents: dict[str, Any], policy: str) -> None:
    """Also where it is the other agent's, which counts it as of a second hop."""
    with Playbook(host="there") as there, Playbook(host="here") as here:
        there.put(there.instance("one", agent="there"), **documents)
        far(here, "one", retry={"attempts": 1})
        deliver = GET[:-2] + b"x-shoal-endpoint: pets.production/one\r\n\r\n"
        for _ in range(2):
            client = there.client(inbound=True)
            assert client >> deliver
            if not there.idle and documents:
                up = there.upstream()
                assert up >> OK
                up.breaks()
            elif not there.idle:
                there.dialled().refuses()
        answered(here, client.heard)
        first, second = (play.worker.table.services["pets.production"].stats for play in (here, there))
        assert (first.refused, first.refused_second) == ({policy: 1}, {})
        assert second.refused == {} and second.refused_second[policy] == (1 if documents else 2)


def test_a_refusal_by_the_agent_of_the_instance_is_the_first_where_the_caller_has_none() -> None:
    """Nobody else can count it."""
    with Playbook(host="there") as play:
        limits = [{"name": "all", "rate": "1/h", "side": "service"}]
        play.put(play.instance("one", agent="there"), ratelimit={"limits": limits})
        for _ in range(2):
            client = play.client(inbound=True, peer="192.0.2.9")
            assert client >> GET
            if not play.idle:
                assert play.upstream() >> OK
        stats = play.worker.table.services["pets.production"].stats
        assert (sum(stats.refused.values()), stats.refused_second) == (1, {})
