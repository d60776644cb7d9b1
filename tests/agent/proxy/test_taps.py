"""Live requests that somebody taps: what is noted of each in a worker, for whom, and within which bounds."""

from __future__ import annotations

import json
from typing import Any

from agent.frames import Away, Follow, Tap
from agent.proxy.report import taps
from agent.requests.filter import Filter
from agent.requests.taps import Wanted
from policies.kinds.log.document import MAX_BODY_BYTES
from tests.agent.proxy.test_logging import FAILED, OK, ask, followed, get
from tests.support.playbook import Playbook
from tests.support.proxy import CREDENTIALS, SERVICE, entrust

EVERYTHING = Wanted(Filter(), headers=True, bodies=True)
SHOWN: dict[str, Any] = {"tap": {"headers": True, "bodies": ["application/json", "text/*"]}}
LATER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nab"


def tap(play: Playbook, wanted: Wanted = EVERYTHING, **documents: Any) -> None:
    play.put("one", retry={"attempts": 1}, **documents)
    play.worker.take(Tap({}))
    play.worker.take(Tap({"7": wanted}))


def tapped(play: Playbook) -> list[Any]:
    return followed(play).get("7", [])


def phases(row: Any) -> list[str]:
    return [each["phase"] for each in row["decisions"]]


def test_decisions_are_told_in_their_order_and_the_client_is_told_nothing() -> None:
    """With the document and its revision; who asks why is told as ever, beside the tap."""
    with Playbook() as play:
        rule = {"name": "cats", "match": {"path": {"prefix": "/cats"}}, "respond": {"status": 418}}
        tap(play, route={"rules": [rule]})
        client = play.client()
        assert client >> get("/dogs")
        assert play.upstream("one") >> OK
        assert client << b"HTTP/1.1 200 OK\r\n...ok"
        assert client >> get("/cats")
        assert b"x-shoal-explain" not in client.heard and b"418" in client.heard
        client.heard = b""
        assert client >> get("/cats", "X-Shoal-Explain: 1")
        assert b'x-shoal-explain: {"decisions":[' in client.heard
        dogs, cats, asked = tapped(play)
        assert (dogs["target"], dogs["status"], dogs["service"], dogs["called_as"]) == ("/dogs", 200, SERVICE, "")
        assert phases(dogs)[:2] == ["service", "route"] and phases(dogs)[-1] == "balance"
        assert cats["decisions"][1]["policy"].startswith("route/") and "418" in cats["decisions"][1]["decision"]
        assert phases(asked) == phases(cats) and cats["status"] == 418


def test_without_a_document_neither_headers_nor_bodies_are_shown() -> None:
    """And it is said why; nor where nobody asks for them."""
    with Playbook() as play:
        tap(play)
        ask(play)
        (row,) = tapped(play)
        for half in (row["request"], row["answer"]):
            assert half["headers"] is None and half["body"] is None
            assert half["no_headers"] == half["no_body"] == taps.NO_DOCUMENT
        assert row["answer"]["body_bytes"] == 2
    with Playbook() as play:
        tap(play, Wanted(Filter()), log=SHOWN)
        ask(play)
        (row,) = tapped(play)
        assert row["request"]["headers"] is row["answer"]["body"] is None and not row["answer"]["no_headers"]


def test_headers_and_bodies_less_what_is_redacted() -> None:
    """Both ways; and what passes is what it was."""
    with Playbook() as play:
        entrust(play.worker)
        log = {**SHOWN, "redact_headers": ["x-email"], "redact_query": ["token"]}
        log["tap"] = {**SHOWN["tap"], "redact": ["password"]}
        tap(play, log=log)
        client = play.client()
        body = b'{"name": "ada", "password": "s3cret"}'
        head = b"PUT /a?token=s3cret HTTP/1.1\r\nHost: %b\r\nCookie: s3cret\r\nX-Email: s3cret\r\nX-Tenant: blue\r\n"
        head += CREDENTIALS + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        assert client >> head % (SERVICE.encode(), len(body)) + body
        up = play.upstream()
        assert up << b"...\r\n\r\n" + body
        told = b"HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\nLocation: /b?code=s3cret\r\nContent-Type: text/json\r\n"
        assert up >> told + b"Content-Length: %d\r\n\r\n" % len(body) + body
        assert client << b"HTTP/1.1 200 OK\r\n...Set-Cookie: s3cret\r\n...\r\n\r\n" + body
        (row,) = tapped(play)
        assert "s3cret" not in json.dumps(row)
        asked, answer = dict(row["request"]["headers"]), dict(row["answer"]["headers"])
        assert asked["x-tenant"] == "blue" and answer["location"] == "/b?[redacted]"
        hidden = [asked[name] for name in ("cookie", "x-email", "proxy-authorization")]
        assert {*hidden, answer["set-cookie"]} == {"[redacted]"}
        assert json.loads(row["request"]["body"]) == {"name": "ada", "password": "[redacted]"}
        assert row["request"]["body_bytes"] == row["answer"]["body_bytes"] == len(body)
        assert (row["caller"], row["called_as"], row["target"]) == ("shop.production", "proven", "/a?token=[redacted]")


def test_a_rewritten_query_is_redacted_where_decisions_tell_of_it() -> None:
    """As in the target."""
    with Playbook() as play:
        rule = {"rewrite": {"path": "/new"}, "match": {"path": {"prefix": "/cats"}}}
        tap(play, route={"rules": [rule]}, log={"redact_query": ["token"]})
        ask(play, get("/cats?token=s3cret"))
        (row,) = tapped(play)
        assert "/new" in json.dumps(row["decisions"]) and "s3cret" not in json.dumps(row)


def test_a_body_passes_as_it_comes_and_is_cut_for_whom_it_is_shown() -> None:
    """Nothing is held back; of what is long the beginning is shown."""
    with Playbook() as play:
        tap(play, log={"tap": {"bodies": ["text/*"], "max_bytes": 64}})
        client = play.client()
        assert client >> get("/")
        up = play.upstream()
        assert up >> LATER
        assert client << b"HTTP/1.1 200 OK\r\n...\r\n\r\nab"
        assert up >> b"cdef"
        assert client << b"cdef"
        long = b"x" * 70_000
        assert (
            client
            >> b"PUT / HTTP/1.1\r\nHost: %b\r\nContent-Type: text/plain\r\nContent-Length: 70000\r\n\r\n"
            % (SERVICE.encode())
            + long[:100]
        )
        assert up << b"...PUT / ...\r\n\r\n" + long[:100]
        assert client >> long[100:]
        assert up << long[100:]
        assert up >> OK
        first, second = tapped(play)
        assert first["answer"]["body"] == "abcdef" and not first["answer"]["body_cut"]
        assert second["request"]["body"] == "x" * 64 and second["request"]["body_cut"]
        assert second["request"]["body_bytes"] == 70_000 and second["answer"]["no_body"]


def test_answers_of_the_mesh_are_shown() -> None:
    """What they say is the why."""
    with Playbook() as play:
        tap(play, log={"tap": {"headers": True, "bodies": ["*"]}})
        client = play.client()
        assert client >> get("/")
        play.dialled().refuses()
        (row,) = tapped(play)
        assert row["status"] == 503 and row["flag"] == "service.connect"
        assert dict(row["answer"]["headers"])["x-shoal-policy"] == "endpoint"
        assert "cannot connect" in row["answer"]["body"] and "cannot connect" in row["why"]
        assert "retry" in phases(row)


def test_what_was_refused_before_there_was_a_request_is_shown_within_bounds() -> None:
    """Nobody knows whose it would be: it has no headers, and no query. A head within its bounds is cut as well."""
    with Playbook() as play:
        tap(play, log=SHOWN)
        client = play.client()
        wire = get("/cats?token=s3cret", "X: " + "x" * 5 * 1024 * 1024)
        for at in range(0, len(wire), 65536):
            if not client.closed:
                assert client >> wire[at : at + 65536]
        assert client.heard.startswith(b"HTTP/1.1 431")
        ask(play, get("/" + "y" * 20_000, *(f"X-{n}: " + "x" * 900 for n in range(40))))
        refused, long = tapped(play)
        assert (refused["status"], refused["decisions"], refused["request"]) == (431, [], None)
        assert refused["target"] == "/cats?[redacted]" and len(json.dumps(refused)) < 2000
        assert len(long["target"]) == taps.MAX_TARGET and len(json.dumps(long)) < 30_000
        assert {len(value) for name, value in long["request"]["headers"] if name.startswith("x-")} == {257}


def test_a_filter_of_how_it_ends_and_one_of_how_it_begins() -> None:
    """What is not meant is not noted."""
    with Playbook() as play:
        tap(play, Wanted(Filter(failed=True, path="/cats")))
        ask(play, get("/cats"))
        ask(play, get("/dogs"), FAILED)
        ask(play, get("/cats/1"), FAILED)
        assert [row["target"] for row in tapped(play)] == ["/cats/1"]
        assert play.worker.recorder.taps is not None and play.worker.recorder.taps.under_way == 0


def test_both_sides_show_it() -> None:
    """Of a call over two hosts: who says who calls, and under the same id."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), retry={"attempts": 1})
        play.worker.take(Tap({"7": EVERYTHING}))
        client = play.client(inbound=True)
        assert client >> get("/", "x-shoal-caller: shop.production", "x-request-id: 17")
        assert play.upstream() >> OK
        (row,) = tapped(play)
        assert (row["direction"], row["caller"], row["called_as"]) == ("inbound", "shop.production", "said")
        assert row["request_id"] == "17"


def test_so_many_begin_in_a_second_and_what_is_more_is_shown_without_or_counted() -> None:
    """Who looks for what failed finds it among the others."""
    with Playbook() as play:
        tap(play)
        for _ in range(int(taps.PER_S) + 50):
            ask(play)
        assert len(tapped(play)) == int(taps.PER_S) + 1, "and how many there were besides"
        play.passes(10.0)
        tap(play, Wanted(Filter(failed=True)))
        for _ in range(int(taps.PER_S) + 50):
            ask(play)
        ask(play, says=FAILED)
        (row,) = tapped(play)
        assert row["decisions"] is None and row["status"] == 503


def test_so_many_are_noted_at_a_time() -> None:
    """Those that last take the place of no other; and they give it back."""
    with Playbook() as play:
        tap(play)
        clients, ups = [], []
        for n in range(taps.MOST_UNDER_WAY + 1):
            clients.append(play.client())
            assert clients[n] >> get(f"/{n}")
            ups.append(play.upstream())
            play.passes(1 / taps.PER_S)
        for up in ups:
            play.passes(1 / taps.PER_S)
            assert up >> OK
        noted = [row["decisions"] is not None for row in tapped(play)]
        assert noted == [True] * taps.MOST_UNDER_WAY + [False]
        assert play.worker.recorder.taps is not None and play.worker.recorder.taps.under_way == 0


def test_the_ring_has_a_bound_in_bytes() -> None:
    """The newest are lost, and counted behind those that were kept; a batch has a bound as well."""
    shown = {"bodies": ["text/*"], "max_bytes": MAX_BODY_BYTES}
    body = b"x" * MAX_BODY_BYTES
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Playbook() as play:
        tap(play, log={"tap": shown})
        for n in range(80):
            ask(play, get(f"/{n}"), head + body)
        frames: list[Any] = []
        while found := play.worker.recorder.take_followed(50):
            frames += found
        assert all(len(frame.lines) <= taps.BATCH_BYTES for frame in frames) and len(frames) > 3
        assert sum(len(frame.lines) for frame in frames) <= taps.RING_BYTES
        assert [frame.lost for frame in frames[:-1]] == [0] * (len(frames) - 1)
        assert sum(frame.count for frame in frames) + frames[-1].lost == 80 and frames[-1].lost > 0


def test_who_taps_no_more_costs_nothing() -> None:
    """Whatever is under way then; and who goes on does so where he was. A successor of control begins anew."""
    with Playbook() as play:
        tap(play)
        recorder = play.worker.recorder
        client = play.client()
        assert client >> get("/first")
        up = play.upstream()
        play.worker.take(Tap({}))
        assert recorder.taps is None and not recorder.wanted
        play.worker.take(Tap({"7": EVERYTHING}))
        assert up >> OK
        ask(play, get("/second"))
        assert recorder.taps is not None and recorder.taps.under_way == 0
        play.worker.take(Tap({"7": EVERYTHING, "8": Wanted(Filter(path="/none"))}))
        found = followed(play)
        assert [row["target"] for row in found["7"]] == ["/first", "/second"] and "8" not in found
        play.worker.take(Follow({"1": Filter()}))
        play.worker.take(Away())
        assert recorder.taps is None and recorder.wanted


def test_what_a_caller_is_not_to_know_of_who_taps_is_told() -> None:
    """The true reason, by the document that hides the service; the client hears that there is none."""
    with Playbook() as play:
        tap(play, isolation={"allow": ["nobody.production"]})
        client = play.client()
        assert client >> get("/", "X-Shoal-Explain: 1")
        assert b"404" in client.heard and b"nobody.production" not in client.heard and b"isolation" not in client.heard
        (row,) = tapped(play)
        assert row["decisions"][0]["policy"].startswith("isolation/") and row["flag"] == "policy.isolation"
