"""The spans that requests leave: of hops and tries, of what failed or was slow; and what the next hop is told."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent.proxy.messages.trace_context import begun, digits_of, is_traceparent, lines, traceparent, value_of
from agent.proxy.report.spans import RING, SpanRing, prepared
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import CREDENTIALS, SERVICE, entrust, watched

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
TRACE = "12345678901234567890123456789012"
SAMPLED = f"traceparent: 00-{TRACE}-1234567890123456-01\r\ntracestate: a=1\r\n".encode()
ALL = {"share": 1}
Spans = list[dict[str, Any]]


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        entrust(play.worker)
        play.worker.spans.wanted = True
        yield play


def get(path: str = "/cats?token=x", headers: bytes = b"", credentials: bytes = CREDENTIALS) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: pets.production\r\n%b%b\r\n" % (path.encode(), credentials, headers)


def left(play: Playbook) -> Spans:
    """All that was left so far."""
    frame = play.worker.spans.take(10_000)
    found: Spans = [json.loads(line) for line in frame.lines.splitlines()] if frame is not None else []
    for span in found:
        assert re.fullmatch("[0-9a-f]{32}", span["trace_id"]) and re.fullmatch("[0-9a-f]{16}", span["span_id"])
    assert len({span["span_id"] for span in found}) == len(found)
    return found


def told(up: Wire) -> tuple[str, str, str]:
    """The trace, the span and the flags that it was told."""
    (found,) = re.findall(rb"\r\ntraceparent: 00-(.{32})-(.{16})-(..)\r\n", up.heard)
    return tuple(each.decode() for each in found)  # type: ignore[return-value]


def elsewhere(play: Playbook, name: str) -> Any:
    """An instance of another host's agent."""
    port = play.instance(name).port
    return play.instance(name, agent="another", via=True, dial_port=port + 1, dial_address="127.0.0.1")


def test_a_try_elsewhere_is_one_span_of_who_calls(play: Playbook) -> None:
    """The other host's agent is told that span."""
    play.put(elsewhere(play, "one"), trace={"share": 1, "headers": ["X-Team"], "response_headers": ["x-cache"]})
    client = play.client()
    client >> get(headers=SAMPLED + b"X-Team: a\r\nx-team: b\r\nx-request-id: r-1\r\n")
    up = play.upstream()
    trace, span, flags = told(up)
    play.passes(0.25)
    up >> b"HTTP/1.1 200 OK\r\nX-Cache: hit\r\ncontent-length: 2\r\n\r\nok"
    (found,) = left(play)
    assert (found["trace_id"], found["span_id"], found["parent_id"]) == (TRACE, span, "1234567890123456")
    assert (trace, flags, found["flags"], found["state"], found["remote"]) == (TRACE, "01", 1, "a=1", True)
    assert (found["service"], found["kind"], found["name"]) == ("shop.production", "client", "GET")
    assert found["duration_s"] == pytest.approx(0.25) and "error" not in found
    attributes = found["attributes"]
    assert attributes.pop("network.peer.port") > 10_000
    assert attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/cats",
        "url.full": "http://pets.production/cats",
        "server.address": SERVICE,
        "server.port": 80,
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "peer.service": SERVICE,
        "network.peer.address": "127.0.0.1",
        "http.request.header.x-team": ["a", "b"],
        "http.response.header.x-cache": ["hit"],
        "shoal.request_id": "r-1",
        "shoal.endpoint": "one",
        "shoal.version": "v1",
    }


def test_on_one_host_both_sides_are_told(play: Playbook) -> None:
    """The instance is told the span of its own service, under that of who calls."""
    play.put(play.instance("one", agent="here"), trace={"share": 1, "templates": ["/users/{id}"]})
    play.client() >> get("/users/7")
    up = play.upstream("one")
    trace, span, flags = told(up)
    up >> OK
    client, server = left(play)
    assert (client["service"], server["service"]) == ("shop.production", SERVICE)
    assert (client["kind"], server["kind"]) == ("client", "server")
    assert (client.get("parent_id", ""), server["parent_id"], server["span_id"]) == ("", client["span_id"], span)
    assert client["trace_id"] == server["trace_id"] == trace and flags == "03"
    assert client["name"] == server["name"] == "GET /users/{id}"
    assert client["attributes"]["url.template"] == server["attributes"]["http.route"] == "/users/{id}"
    assert server["attributes"]["shoal.caller"] == "shop.production"


def test_an_instance_that_was_not_reached_serves_nothing(play: Playbook) -> None:
    """Of a try at it there is the caller's side alone."""
    play.put(play.instance("one", agent="here"), trace=ALL, retry={"attempts": 1})
    play.client() >> get()
    play.dialled("one").refuses()
    (found,) = left(play)
    assert (found["kind"], found["error"]) == ("client", "connect")
    assert found["attributes"]["http.response.status_code"] == 503


def test_the_agent_beside_the_instance_makes_its_side(play: Playbook) -> None:
    """Beneath the span that it is told, by the caller's agent's decision and nobody else's."""
    play.put(play.instance("one", agent="here"), trace={"share": 0, "parent": "ignore"})
    client = play.client(inbound=True)
    client >> get(headers=SAMPLED + b"x-shoal-caller: shop.production\r\n", credentials=b"")
    up = play.upstream("one")
    trace, span, _ = told(up)
    up >> BUSY
    (found,) = left(play)
    assert (found["kind"], found["service"], found["parent_id"]) == ("server", SERVICE, "1234567890123456")
    assert (found["span_id"], trace, found["error"]) == (span, TRACE, "503")
    assert found["attributes"]["shoal.caller"] == "shop.production"


def test_who_is_nobody_is_the_agent(play: Playbook) -> None:
    """A client without credentials."""
    play.put(elsewhere(play, "one"), trace=ALL)
    play.client() >> get(credentials=b"")
    play.upstream() >> OK
    assert [span["service"] for span in left(play)] == ["shoal"]


def test_each_of_several_tries_is_a_span(play: Playbook) -> None:
    """One that cannot connect, one that is answered with 503, and a good one: beneath the request's own."""
    play.put(
        *[elsewhere(play, name) for name in ("one", "two", "three")],
        trace=ALL,
        retry={"attempts": 3, "on": ["5xx", "connect-failure"]},
    )
    play.client() >> get()
    play.dialled().refuses()
    play.passes(0.3)
    second = play.upstream()
    spans = [told(second)[1]]
    second >> BUSY
    play.passes(0.3)
    third = play.upstream()
    spans.append(told(third)[1])
    third >> OK
    whole, *tries = left(play)
    assert whole["attributes"]["shoal.attempts"] == 3 and whole["attributes"]["http.response.status_code"] == 200
    assert "error" not in whole and "shoal.endpoint" not in whole["attributes"]
    assert [span["parent_id"] for span in tries] == [whole["span_id"]] * 3
    assert [span["span_id"] for span in tries[1:]] == spans
    assert [span.get("error") for span in tries] == ["connect", "503", None]
    assert [span["attributes"].get("http.request.resend_count") for span in tries] == [None, 1, 2]
    assert [span["attributes"]["shoal.try"] for span in tries] == ["first", "retry", "retry"]
    assert len({span["attributes"]["shoal.endpoint"] for span in tries}) == 3
    began = [span["time"] for span in (whole, *tries)]
    assert began == sorted(began) and all(span["duration_s"] <= whole["duration_s"] for span in tries)


def test_a_hedge_and_who_lost(play: Playbook) -> None:
    """It begins beside the first, wins, and nobody waits for the other."""
    play.put(
        *[elsewhere(play, name) for name in ("one", "two")],
        trace=ALL,
        retry={"hedge": {"after": "20ms"}, "attempts": 3},
    )
    play.client() >> get()
    first = play.upstream()
    play.passes(0.05)
    hedge = play.upstream()
    assert told(first)[0] == told(hedge)[0] and told(first)[1] != told(hedge)[1]
    hedge >> OK
    whole, lost, won = left(play)
    assert [span["attributes"]["shoal.try"] for span in (lost, won)] == ["first", "hedge"]
    assert lost["attributes"]["shoal.cancelled"] is True and "error" not in lost
    assert won["attributes"]["http.response.status_code"] == 200 and "shoal.cancelled" not in won["attributes"]
    assert whole["attributes"]["http.response.status_code"] == 200 and "error" not in whole


def test_what_shoal_answers_itself(play: Playbook) -> None:
    """By which kind of policy, and why."""
    play.put(
        play.instance("one", agent="here"),
        trace=ALL,
        authz={"rules": [{"name": "nobody", "deny": "anybody"}]},
    )
    play.client() >> get()
    (found,) = left(play)
    assert (found["kind"], found["error"]) == ("client", "403")
    assert found["attributes"]["shoal.policy"] == "authz" and "shoal.reason" in found["attributes"]


def test_what_fails_leaves_a_span_though_it_is_not_sampled(play: Playbook) -> None:
    """At this hop, of a trace that says that it is not; what goes well leaves none."""
    play.put(elsewhere(play, "one"), trace={"share": 0, "slower": "1s"}, retry={"attempts": 1})
    client = play.client()
    client >> get()
    up = play.upstream()
    assert told(up)[2] == "02"
    up >> OK
    assert left(play) == []
    up.heard = b""
    client >> get()
    trace, span, _ = told(up)
    up >> BUSY
    (failed,) = left(play)
    assert (failed["attributes"]["shoal.kept"], failed["error"], failed["flags"]) == ("error", "503", 2)
    assert (failed["trace_id"], failed["span_id"]) == (trace, span)
    up.heard = b""
    client >> get()
    play.passes(1.5)
    up >> OK
    (slow,) = left(play)
    assert slow["attributes"]["shoal.kept"] == "slow" and "error" not in slow


def test_an_answer_that_breaks_off_has_failed(play: Playbook) -> None:
    """Though its status was good; and a client that goes away has broken nothing."""
    play.put(elsewhere(play, "one"), trace={"share": 0})
    play.client() >> get()
    up = play.upstream()
    up >> b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok"
    up.breaks()
    (found,) = left(play)
    assert (found["error"], found["attributes"]["shoal.kept"]) == ("reset", "error")
    assert found["attributes"]["http.response.status_code"] == 200
    client = play.client()
    client >> get()
    play.upstream()
    client.ends()
    assert left(play) == []


def test_where_nobody_takes_spans_none_is_made(play: Playbook) -> None:
    """The trace is begun and passed on all the same, for those who do."""
    play.worker.spans.wanted = False
    play.put(elsewhere(play, "one"), trace=ALL)
    play.client() >> get()
    up = play.upstream()
    assert told(up)[2] == "03"
    up >> BUSY
    play.passes(1)
    assert left(play) == [] and play.worker.spans.made == 0


def test_copies_are_traces_of_their_own(play: Playbook) -> None:
    """With a link to the request that they are copies of."""
    play.put(elsewhere(play, "cat"), service="cats.production")
    play.put(elsewhere(play, "one"), trace=ALL, shadow={"copies": [{"to": "cats.production"}]})
    play.client() >> get()
    up = play.upstream()
    play.passes(0.1)
    copy = play.upstream()
    trace, span, _ = told(copy)
    assert trace != told(up)[0] and b"x-shoal-shadow: shadow" in copy.heard
    request = told(up)[1]
    up >> OK
    (whole,) = left(play)
    copy >> BUSY
    (found,) = left(play)
    assert (found["trace_id"], found["span_id"], found["links"]) == (trace, span, [[whole["trace_id"], request]])
    assert found["attributes"]["shoal.shadow"] == "shadow" and found["error"] == "503"
    assert found["attributes"]["shoal.endpoint"] == "cat"


def test_a_document_that_is_only_watched_counts(play: Playbook) -> None:
    """And touches nothing."""
    play.put(elsewhere(play, "one"), audits={"trace": ALL})
    play.client() >> get(headers=SAMPLED)
    up = play.upstream()
    assert SAMPLED in up.heard
    up >> OK
    assert left(play) == []
    assert play.worker.table.services[SERVICE].stats.audited() == {("trace", SERVICE, "not sampled", "sampled"): 1}
    assert watched(play.worker) == {"trace": 1}


def test_no_more_than_its_rate_is_followed(play: Playbook) -> None:
    """Of callers that are no agents: beyond it nobody further on samples it either; what is not sampled takes nothing
    of it, nor does what is drawn, or asked about."""
    document = {"share": 0, "follow_rate": 2, "errors": False}
    play.put(elsewhere(play, "one"), trace=document)
    client = play.client()
    for _ in range(5):
        explain(play.worker, Explain(f"{SERVICE}/", headers=[["traceparent", f"00-{TRACE}-1234567890123456-01"]]))
    client >> get(headers=SAMPLED.replace(b"-01", b"-00"))
    up = play.upstream()
    up >> OK
    for headers in (b"", SAMPLED, SAMPLED, SAMPLED, SAMPLED):
        client >> get(headers=headers)
        up >> OK
    flags = re.findall(rb"\r\ntraceparent: 00-.{32}-.{16}-(..)\r\n", up.heard)
    assert flags == [b"00", b"02", b"01", b"01", b"00", b"00"] and len(left(play)) == 2
    found: Any = explain(
        play.worker, Explain(f"{SERVICE}/", headers=[["traceparent", f"00-{TRACE}-1234567890123456-01"]])
    )
    (entry,) = [each for each in found["decisions"] if each["phase"] == "trace"]
    assert (entry["decision"], entry["reason"].split(";")[0]) == (
        "not sampled",
        "more were followed in this second than its follow_rate",
    )


def test_what_another_agent_has_decided_is_followed_in_any_case(play: Playbook) -> None:
    """It has been bounded there: a trace is not to end between the two sides of a call."""
    play.put(play.instance("one", agent="here"), trace={"share": 0, "follow_rate": 1, "errors": False})
    client = play.client(inbound=True)
    client >> get(headers=SAMPLED, credentials=b"")
    up = play.upstream("one")
    up >> OK
    for _ in range(4):
        client >> get(headers=SAMPLED, credentials=b"")
        up >> OK
    assert len(left(play)) == 5


def test_no_more_than_the_rate_is_drawn(play: Playbook) -> None:
    """What others have decided is not bounded by it."""
    play.put(elsewhere(play, "one"), trace={"share": 1, "rate": 2, "errors": False})
    client = play.client()
    client >> get()
    up = play.upstream()
    up >> OK
    for _ in range(9):
        client >> get()
        up >> OK
    assert len(left(play)) == 2
    for _ in range(5):
        client >> get(headers=SAMPLED)
        up >> OK
    assert len(left(play)) == 5


def test_a_ring_that_is_full_loses_the_newest_and_counts(play: Playbook) -> None:
    """What was held is whole."""
    play.put(elsewhere(play, "one"), trace=ALL)
    client = play.client()
    client >> get()
    up = play.upstream()
    up >> OK
    ring = play.worker.spans
    (frame,) = [ring.take(1)]
    assert frame is not None and frame.count == 1
    for _ in range(RING + 5):
        client >> get()
        up >> OK
        up.heard = client.heard = b""
    assert (len(ring), ring.lost, ring.made) == (RING, 5, RING + 6)


def test_secrets_are_not_told(play: Playbook) -> None:
    """A header that has an API key for the service, though the document names it; nor a query."""
    people = {
        "api_keys": {"header": "x-key", "keys": [{"id": "ann", "hash": "sha256:" + "0" * 64, "claims": {"sub": "ann"}}]}
    }
    play.put(elsewhere(play, "one"), trace={"share": 1, "headers": ["x-key", "x-team"]}, authn=people)
    play.client() >> get(headers=b"x-key: s3cret\r\nx-team: t\r\n")
    text = json.dumps(left(play))
    assert "s3cret" not in text and "token" not in text and "x-team" in text


def test_explain_says_whether_it_would_be_sampled(play: Playbook) -> None:
    """And by which document; asking draws nothing."""
    play.put(
        elsewhere(play, "one"),
        trace={"share": 1, "rate": 1, "rules": [{"match": {"path": {"exact": "/h"}}, "share": 0}]},
    )

    def says(path: str, *headers: list[str]) -> tuple[str, str, str]:
        found: Any = explain(play.worker, Explain(f"{SERVICE}{path}", headers=list(headers)))
        (entry,) = [each for each in found["decisions"] if each["phase"] == "trace"]
        return entry["decision"], entry["policy"], entry["reason"]

    for _ in range(3):
        assert says("/") == ("sampled", f"trace/{SERVICE}", "by its share")
    decision, _, reason = says("/h")
    assert decision == "not sampled" and reason == "by its share; it leaves a span here all the same if it fails"
    assert says("/", ["traceparent", f"00-{TRACE}-1234567890123456-01"])[2] == "as its caller has decided"


def test_the_next_host_is_asked_as_the_hop_would_come(play: Playbook) -> None:
    """Of the same trace, and with what was decided of it."""
    for share, flag in ((1, "01"), (0, "00")):
        play.put(elsewhere(play, "one"), trace={"share": share, "parent": "ignore"})
        found: Any = explain(play.worker, Explain(f"{SERVICE}/", headers=[["X-A", "b"]]))
        hop = found["hop"]
        (said,) = [value for name, value in hop.headers if name.lower() == "traceparent"]
        assert said.endswith(f"-{flag}")
        there: Any = explain(play.worker, hop)
        assert next(each["reason"] for each in there["decisions"] if each["phase"] == "trace").startswith(
            "as its caller"
        )


def test_what_calls_have_in_common_is_known_by_the_trace_that_began_here(play: Playbook) -> None:
    """A call that came to nothing, all tries made, is not multiplied by those before: known by the trace, too."""
    play.put(play.instance("one", agent="here"), trace=ALL, retry={"attempts": 2})
    client = play.client(inbound=True)
    client >> get(credentials=b"")
    trace = told(play.upstream("one"))[0]
    exchange: Any = play.connection(client).exchange
    from agent.proxy.messages.origin import trace_id

    assert trace_id(exchange.request).decode() == trace


def test_ids_that_are_drawn_together_are_no_zeros() -> None:
    """Which would be none (W3C Trace Context, 3.2.2); the last 56 bits of the trace's decide by number and id alike."""
    drawn: list[bytes] = []

    class Odd(random.Random):
        """Its first bytes are zeros."""

        def randbytes(self, n: int) -> bytes:
            drawn.append(b"")
            return bytes(n) if len(drawn) == 1 else super().randbytes(n)

    found = prepared(Odd(1))
    assert len(drawn) == 2 and len({begun(line) for line in found}) == len(found) == 64
    ring = SpanRing(random.Random(1))
    for _ in range(1000):
        line = ring.next_begun()
        assert ring.begin() == line
        trace, span = begun(line)
        assert line == lines(value_of(line), b"") and value_of(line) == traceparent(trace, span, 2)
        assert is_traceparent(value_of(line)) and digits_of(line) == trace[-14:]
