"""An instance says when to come again: who waits, who goes elsewhere, and who does not care."""

from __future__ import annotations

from typing import Any

import pytest

from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.conversation import GET, OK, RELAYED, talk
from tests.support.playbook import Playbook


def says(after: bytes, status: bytes = b"503 Service Unavailable", date: bytes = b"") -> bytes:
    dated = b"Date: %b\r\n" % date if date else b""
    return b"HTTP/1.1 %b\r\nContent-Length: 0\r\n%bRetry-After: %b\r\n\r\n" % (status, dated, after)


def picked(play: Playbook, times: int = 30) -> set[str]:
    found = set()
    for _ in range(times):
        play.worker.rng.random()  # asking moves nothing, chance neither
        found.add(explain(play.worker, Explain("pets.production/a"))["endpoint"]["id"])
    return found


@pytest.mark.parametrize("after", [b"1", b"5", b"3600"])
def test_what_one_instance_says_holds_no_request(after: bytes) -> None:
    """The other is asked at once, and gets the next requests too, for as long as the one asks for, within a bound."""
    with Playbook() as play:
        play.put("one", "two")
        play.worker.table.services["pets.production"].loads["two"].active = 9
        client, up = talk(play)
        assert up >> says(after)
        other = play.upstream("two")
        assert other << b"GET /a ...x-shoal-attempt: 2\r\n\r\n"
        assert other >> OK
        assert client << RELAYED
        play.worker.table.services["pets.production"].loads["two"].active = 0
        assert picked(play) == {"two"}
        play.passes(min(int(after), 30) - 0.1)
        assert picked(play) == {"two"}
        play.passes(0.2)
        assert picked(play) == {"one", "two"}


def test_where_nothing_else_is_left_it_is_waited_for() -> None:
    """Not less; and when the time has come, at the one that said so."""
    with Playbook() as play:
        play.put("one", retry={"attempts": 3})
        client, up = talk(play)
        for _ in range(2):
            assert up >> says(b"2")
            play.passes(1.9)
            assert up << b"" and client << b""
            play.passes(0.2)
            assert up << b"GET /a ..."
        assert up >> OK
        assert client << RELAYED and play.idle


NOT_WORTH_IT: dict[str, tuple[dict[str, Any], bytes, bytes, float]] = {
    "longer than is waited": ({}, GET, says(b"6"), 0),
    "for ever": ({}, GET, says(b"9" * 400), 0),
    "a date that is far": (
        {},
        GET,
        says(b"Sun, 06 Nov 1994 08:50:37 GMT", date=b"Sun, 06 Nov 1994 08:49:37 GMT"),
        0,
    ),
    "longer than its deadline": ({"timeout": {"request": "3s"}}, GET, says(b"3"), 0),
    "longer than the default limit": ({}, GET, says(b"4"), 12),
    "a status that is not tried again": ({}, GET, says(b"1", b"500 Oh"), 0),
    "a method that is not": ({}, GET.replace(b"GET", b"POST"), says(b"1"), 0),
    "all attempts made": ({"retry": {"attempts": 1}}, GET, says(b"1"), 0),
    "tried already": ({}, GET, says(b"1").replace(b"Retry", b"X-Shoal-No-Retry: 1\r\nRetry"), 0),
    "no budget": ({"retry": {"budget": {"ratio": 0, "min_per_second": 0}}}, GET, says(b"1"), 0),
}


@pytest.mark.parametrize("case", NOT_WORTH_IT)
def test_what_is_not_worth_waiting_for(case: str) -> None:
    """The answer is there, and is passed on as it came."""
    documents, asked, said, takes_s = NOT_WORTH_IT[case]
    with Playbook() as play:
        play.put("one", **documents)
        client = play.client()
        assert client >> asked
        up = play.upstream("one")
        play.passes(takes_s)
        assert client << b""
        up.heard = b""
        assert up >> said
        assert client << said.split(b"\r\n")[0] + b"\r\n...Retry-After: ..."
        play.passes(10)
        assert up << b"" and play.idle


@pytest.mark.parametrize(
    ("after", "date", "waits_s"),
    [
        (b"Sun, 06 Nov 1994 08:49:39 GMT", b"Sun, 06 Nov 1994 08:49:37 GMT", 2),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sun, 06 Nov 1994 08:49:39 GMT", 0),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", b"", 0),
        (b"soon", b"", 0),
        (b"-5", b"", 0),
        (b"Sun, 06 Nov 99999 08:49:37 GMT", b"", 0),
    ],
)
def test_dates_are_times_too(after: bytes, date: bytes, waits_s: int) -> None:
    """By the clock of who says so; what is past, or is none, is as if nothing was said."""
    with Playbook() as play:
        play.put("one")
        _, up = talk(play)
        assert up >> says(after, date=date)
        if waits_s:
            play.passes(waits_s - 0.1)
            assert up << b""
        play.passes(0.2 if waits_s else 0.1)
        assert up << b"GET /a ..."


def test_of_two_that_say_so_the_one_that_is_sooner_is_waited_for() -> None:
    """Where the last one that was tried asks for a time that is worth it, that one is tried again."""
    with Playbook() as play:
        play.put("one", "two", retry={"attempts": 3})
        play.worker.table.services["pets.production"].loads["two"].active = 9
        client, up = talk(play)
        assert up >> says(b"60")
        other = play.upstream("two")
        assert other << b"GET /a ..."
        assert other >> says(b"1")
        play.passes(0.9)
        assert other << b"" and play.idle
        play.passes(0.2)
        assert other << b"GET /a ...x-shoal-attempt: 3\r\n\r\n"
        assert other >> OK
        assert client << RELAYED


def test_only_so_many_are_passed_over() -> None:
    """At least half are left, else one request that nobody can serve would have few serve everybody."""
    with Playbook() as play:
        play.put(*"abcde", retry={"attempts": 5})
        client = play.client()
        assert client >> GET
        for _ in range(5):
            up = play.upstream()
            assert up << b"GET /a ..."
            assert up >> says(b"20")
        assert client << b"HTTP/1.1 503 ...Retry-After: 20..." and play.idle
        assert len(picked(play, 60)) == 3


@pytest.mark.parametrize("said", [says(b"5", b"429 Too Many Requests"), says(b"0")])
def test_what_is_about_the_request_alone(said: bytes) -> None:
    """Another instance may take it; nobody else's requests avoid the one."""
    with Playbook() as play:
        play.put("one", "two", retry={"on": ["gateway-error", "429"], "attempts": 2})
        play.worker.table.services["pets.production"].loads["two"].active = 9
        client, up = talk(play)
        assert up >> said
        assert play.upstream("two") >> OK
        assert client << RELAYED
        play.worker.table.services["pets.production"].loads["two"].active = 0
        assert picked(play) == {"one", "two"}


@pytest.mark.parametrize("hedge", [{}, {"hedge": {"after": "20ms"}}])
def test_a_status_that_is_tried_again_and_no_failure_weighs_on_nobody(hedge: dict[str, Any]) -> None:
    """The instance is through with that request, whatever it said."""
    with Playbook() as play:
        play.put("one", "two", retry={"statuses": [409], "attempts": 2, **hedge})
        client = play.client()
        assert client >> GET
        up = play.upstream()
        if hedge:
            play.passes(0.1)
            other = play.upstream()
        assert up >> b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"
        play.passes(0.1)
        if not hedge:
            other = play.upstream()
        assert other >> OK
        assert client << RELAYED
        assert [load.active for load in play.worker.table.services["pets.production"].loads.values()] == [0, 0]


def test_a_failure_of_what_an_instance_calls_is_not_its_own() -> None:
    """It hands on what it was told: that says nothing of the instance."""
    with Playbook() as play:
        play.put("one", "two")
        client, up = talk(play)
        assert up >> says(b"5").replace(b"Retry", b"X-Shoal-No-Retry: request=7\r\nRetry")
        assert client << b"HTTP/1.1 503 ..."
        assert picked(play) == {"one", "two"}


def test_a_near_zone_that_asks_to_be_spared_hands_on() -> None:
    """Both near ones say so: the far one is asked at once."""
    with Playbook() as play:
        play.worker.table.zone = "a"
        near = [play.instance(f"near-{n}", zone="a") for n in range(2)]
        play.put(*near, *[play.instance(f"far-{n}", zone="b") for n in range(2)], retry={"attempts": 3})
        client = play.client()
        assert client >> GET
        for _ in range(2):
            assert play.upstream() >> says(b"5")
        assert play.upstream() >> OK
        assert client << RELAYED
        assert picked(play) == {"far-0", "far-1"}


def test_a_hedge_that_is_told_when_is_heeded_too() -> None:
    """The other attempt goes on; the one is passed over."""
    with Playbook() as play:
        play.put("one", "two", retry={"hedge": {"after": "20ms"}, "attempts": 2})
        client = play.client()
        assert client >> GET
        first = play.upstream()
        play.passes(0.1)
        second = play.upstream()
        assert first >> says(b"5")
        assert second >> OK
        assert client << RELAYED
        assert len(picked(play)) == 1
