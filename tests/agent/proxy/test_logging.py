"""`log` documents and filters in a worker: which requests have a record, for whom, and what is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.frames import Configure, Follow
from agent.proxy.report import following
from agent.requests.filter import Filter
from tests.support.playbook import Playbook
from tests.support.proxy import GET, SERVICE

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILED = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"


def lines(encoded: bytes) -> list[Any]:
    return [json.loads(line) for line in encoded.splitlines()]


def kept(play: Playbook) -> list[Any]:
    frame = play.worker.recorder.take(1000)
    return lines(frame.lines) if frame else []


def followed(play: Playbook) -> dict[str, list[Any]]:
    """By filter; each with how many were lost."""
    found: dict[str, list[Any]] = {}
    while frames := play.worker.recorder.take_followed(50):
        for frame in frames:
            assert frame.count == len(frame.lines.splitlines())
            found.setdefault(frame.id, []).extend(lines(frame.lines))
            if frame.lost:
                found[frame.id].append(frame.lost)
    return found


def ask(play: Playbook, request: bytes = GET, says: bytes = OK) -> None:
    client = play.client()
    assert client >> request
    if not play.idle:
        play.upstream()
    up = next(wire for wire in play._wires if wire.name == "one" and not wire.closed)
    assert up >> says


def get(path: str, *fields: str, host: str = SERVICE) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode()


def scene(play: Playbook, *, sinks: bool = True, audits: Any = None, **documents: Any) -> None:
    play.worker.take(Configure(access_log=sinks))
    play.put("one", retry={"attempts": 1}, audits=audits, **documents)


def test_what_a_document_leaves_out_has_no_record() -> None:
    """Errors have one."""
    with Playbook() as play:
        scene(play, log={"leave_out": ["/healthz"]})
        ask(play, get("/healthz"))
        ask(play, get("/healthz"), FAILED)
        ask(play, get("/cats"))
        assert [(each["target"], each["status"]) for each in kept(play)] == [("/healthz", 503), ("/cats", 200)]


def test_the_fields_that_it_chooses_and_the_headers_it_asks_for() -> None:
    """In the order of a record; secrets and what is redacted show that they were there."""
    with Playbook() as play:
        chosen = {"fields": ["headers", "status", "target"], "headers": ["X-Tenant", "Authorization", "X-Email"]}
        scene(play, log={**chosen, "redact_headers": ["x-email"], "redact_query": ["token"]})
        told = ("X-Tenant: blue", "X-Tenant: green", "Authorization: Bearer s3cr3t", "X-Email: a@b")
        ask(play, get("/cats?token=s3cr3t&n=3", *told))
        (found,) = kept(play)
        assert list(found) == ["target", "status", "headers"]
        assert found == {
            "target": "/cats?token=[redacted]&n=3",
            "status": 200,
            "headers": {"x-tenant": "blue, green", "authorization": "[redacted]", "x-email": "[redacted]"},
        }


def test_a_share_is_that_of_a_trace() -> None:
    """Both sides of a call take the same."""
    taken = []
    for inbound in (False, True):
        with Playbook(host="here") as play:
            play.worker.take(Configure(host="here", access_log=True))
            play.put(play.instance("one", agent="here"), log={"share": 0.5})
            for n in range(60):
                client = play.client(inbound=inbound)
                assert client >> get("/", f"traceparent: 00-{n + 1:032x}-00f067aa0ba902b7-01")
                if not play.idle:
                    play.upstream()
                assert next(w for w in play._wires if w.name == "one" and not w.closed) >> OK
            taken.append([each["trace_id"] for each in kept(play)])
    assert taken[0] == taken[1] and 10 < len(taken[0]) < 50


def test_a_document_that_is_only_watched_counts_what_it_would_record() -> None:
    """And records nothing more or less."""
    with Playbook() as play:
        scene(play, audits={"log": {"requests": "errors"}})
        ask(play)
        ask(play, says=FAILED)
        assert len(kept(play)) == 2
        audited = play.worker.table.services[SERVICE].stats.audited()
        assert {(kind, done, would): n for (kind, _, done, would), n in audited.items()} == {
            ("log", "recorded", "left out"): 1,
            ("log", "recorded", "recorded"): 1,
        }


def test_where_nobody_wants_records_none_is_made() -> None:
    """Nor where the last who followed has gone."""
    with Playbook() as play:
        scene(play, sinks=False)
        recorder = play.worker.recorder
        assert not recorder.wanted
        play.worker.take(Follow({"1": Filter()}))
        assert recorder.wanted
        ask(play)
        assert [len(each) for each in followed(play).values()] == [1] and kept(play) == []
        play.worker.take(Follow({}))
        assert not recorder.wanted
        ask(play)
        assert followed(play) == {} and kept(play) == []


@pytest.mark.parametrize(
    ("wanted", "targets"),
    [
        (Filter(), ["/cats?a=1", "/dogs", "/cats/1"]),
        (Filter(service="pets.production"), ["/cats?a=1", "/dogs", "/cats/1"]),
        (Filter(service="*.production"), ["/cats?a=1", "/dogs", "/cats/1"]),
        (Filter(service="*.staging"), []),
        (Filter(service="pets"), []),
        (Filter(path="/cats"), ["/cats?a=1", "/cats/1"]),
        (Filter(path="/cats?a"), []),
        (Filter(statuses=("5xx",)), ["/dogs"]),
        (Filter(statuses=("200", "404")), ["/cats?a=1", "/cats/1"]),
        (Filter(failed=True), ["/dogs"]),
        (Filter(slower_s=0.2), ["/cats/1"]),
        (Filter(caller="shop.production"), []),
        (Filter(method="GET"), ["/cats?a=1", "/dogs", "/cats/1"]),
        (Filter(method="PUT"), []),
        (Filter(direction="inbound"), []),
        (Filter(direction="outbound", path="/dogs"), ["/dogs"]),
        (Filter(flag="service."), []),
    ],
)
def test_who_follows_sees_what_the_filter_picks(wanted: Filter, targets: list[str]) -> None:
    """And nothing of what a document redacts, whatever it samples."""
    with Playbook() as play:
        scene(play, sinks=False, log={"requests": "none"})
        play.worker.take(Follow({"7": wanted}))
        ask(play, get("/cats?a=1"))
        ask(play, get("/dogs"), FAILED)
        client = play.client()
        assert client >> get("/cats/1")
        play.passes(0.3)
        assert next(w for w in play._wires if w.name == "one" and not w.closed) >> OK
        assert [each["target"] for each in followed(play).get("7", [])] == targets


def test_what_there_is_no_room_for_is_counted() -> None:
    """By filter, behind what was kept; a filter that goes on does so where it was."""
    with Playbook() as play:
        scene(play, sinks=False)
        play.worker.take(Follow({"all": Filter(), "none": Filter(path="/none")}))
        for n in range(following.MOST_WAITING + 2):
            ask(play, get(f"/{n}"))
        play.worker.take(Follow({"all": Filter()}))
        (first,) = play.worker.recorder.take_followed(2)
        assert (first.count, first.lost) == (2, 0)
        found = followed(play)["all"]
        assert found[0]["target"] == "/2"
        assert (len(found[:-1]), found[-1]) == (following.MOST_WAITING - 2, 2)
