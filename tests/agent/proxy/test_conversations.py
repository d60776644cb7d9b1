"""A request and its answer as a conversation, byte by byte, for both sides, and what goes wrong at each step of it."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from agent.frames import Peer, PolicyFrame
from agent.proxy.http1.answering import ServerStream
from agent.proxy.request.exchange import MAX_HOPS
from agent.proxy.request.explain import explain
from agent.questions import Explain
from policies.catalogue import KINDS
from policies.kind import Side
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import watched

GET = b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\n\r\n"
HEARD = (
    b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nvia: 1.1 shoal\r\nx-forwarded-for: 127.0.0.1\r\n"
    b"x-forwarded-proto: http\r\n\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RELAYED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nvia: 1.1 shoal\r\n\r\nok"
LEFT = b'ratelimit-policy: "all";q=1;w=3600\r\nratelimit: "all";r=0;t=3600\r\n'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n%b\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nContent-Length: 5\r\n\r\n"
DELIVER = (
    b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nVia: 1.1 shoal\r\n"
    b"X-Shoal-Caller: shop.production\r\nX-Shoal-Endpoint: pets.production/%b\r\n\r\n"
)


def refusal(status: bytes, policy: bytes, reason: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nserver: shoal\r\nx-shoal-policy: %b\r\nx-shoal-reason: %b..." % (status, policy, reason)


def talk(play: Playbook) -> tuple[Wire, Wire]:
    """One request on its way to `one`."""
    client = play.client()
    assert client >> GET
    up = play.upstream("one")
    assert up << HEARD
    return client, up


# Out: the story as it should be.


def test_there_and_back_and_once_more_on_the_same_connections() -> None:
    """The whole conversation, to the byte."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> OK
        assert client << RELAYED
        assert client >> GET
        assert up << HEARD and play.idle
        assert up >> OK
        assert client << RELAYED
        assert not client.closed and not up.closed


@pytest.mark.parametrize("cut", range(1, len(GET), 7))
def test_a_head_in_two_pieces_is_one_head(cut: int) -> None:
    """Wherever it is cut."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> GET[:cut]
        assert play.idle
        assert client >> GET[cut:]
        assert play.upstream("one") << HEARD


def test_bodies_go_both_ways_as_they_come() -> None:
    """And what a client says too early waits for its turn."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> POST + b"he"
        up = play.upstream("one")
        assert up << b"POST /a ...\r\n\r\nhe"
        assert client >> b"llo" + GET
        assert up << b"llo"
        assert up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert client << b"HTTP/1.1 200 OK\r\nvia: 1.1 shoal\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert up << b""
        assert up >> b"0\r\nX-Sum: 1\r\n\r\n"
        assert client << b"0\r\nX-Sum: 1\r\n\r\n"
        assert up << HEARD, "the one that waited"


def test_a_chunked_body_is_sent_again_as_it_came() -> None:
    """Its pieces and its trailers, framed anew, at once where it is whole already; each attempt alike."""
    head = b"PUT /a HTTP/1.1\r\nHost: pets.production\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Playbook() as play:
        play.put("one", "two")
        client = play.client()
        assert client >> head + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 5\r\n\r\n"
        first = play.upstream()
        body = b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
        assert first << b"PUT /a HTTP/1.1\r\n...transfer-encoding: chunked\r\n\r\n" + body
        first.breaks()
        play.passes(1.0)
        second = play.upstream()
        assert second << b"PUT /a HTTP/1.1\r\n...x-shoal-attempt: 2\r\ntransfer-encoding: chunked\r\n\r\n" + body
        assert second >> OK
        assert client << RELAYED


def test_who_takes_slowly_has_the_other_side_wait() -> None:
    """The upstream is not read from while the client takes nothing, and goes on afterwards."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        client.takes(0)
        assert up >> b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n" + b"x" * 300_000
        exchange = play.connection(client).exchange
        attempt = exchange.attempt  # type: ignore[union-attr]
        assert not attempt.up.connection._events & 1, "it is read from although nobody takes it"
        client.takes(None)
        assert attempt.up.connection._events & 1
        assert up >> b"x" * 300_000
        assert client << b"HTTP/1.1 200 OK\r\n..." + b"x" * 600_000


def test_informational_answers_and_upgrades() -> None:
    """103 is passed on; after 101 bytes go both ways, and each side may be through first."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
        assert client << b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + RELAYED
        assert client >> GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        assert up << b"...connection: upgrade\r\nupgrade: echo\r\n..."
        assert up >> b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhi"
        assert client << b"HTTP/1.1 101 ...\r\n\r\nhi"
        assert client >> b"\x00\x01"
        assert up << b"\x00\x01"
        assert up.ends() and client.finished and not up.finished
        assert client >> b"more"
        assert up << b"more"
        assert client.ends()
        assert up.closed


# Out: what goes wrong, from the first byte to the last.


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET / HTTP/2.0\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_a_head_that_cannot_be_read_closes(said: bytes, status: bytes) -> None:
    """With an answer; what stands behind it is never taken for a request."""
    with Playbook() as play:
        client = play.client()
        assert client >> said
        assert client << b"HTTP/1.1 %b\r\nserver: shoal\r\nx-shoal-policy: http\r\n...connection: close..." % status
        assert client.finished
        assert client >> GET
        assert client << b"" and play.idle


def test_before_the_first_table_a_request_waits() -> None:
    """And is served once there is one; or told that there is none yet."""
    with Playbook() as play:
        waits, gives_up = play.client(), play.client()
        assert waits >> GET and waits << b""
        assert gives_up.ends()
        play.put("one")
        assert play.upstream("one") << HEARD
    with Playbook() as play:
        late = play.client()
        assert late >> GET
        play.passes(11)
        assert late << refusal(b"503 Service Unavailable", b"agent", b"this agent has not learnt the mesh yet")


def test_a_head_that_drips_and_a_connection_without_requests() -> None:
    """408 for the one, a quiet end for the other."""
    with Playbook() as play:
        play.put("one")
        drips, silent = play.client(), play.client()
        assert drips >> b"GET "
        play.passes(11)
        assert drips << refusal(b"408 Request Timeout", b"http", b"no whole request head within 10 s")
        assert silent << b"" and silent.closed


@pytest.mark.parametrize(
    ("fields", "status", "policy"),
    [
        (b"Host: nobody.production\r\n", b"404 Not Found", b"service"),
        (
            b"Host: pets.production\r\nVia: %b\r\n" % b", ".join([b"1.1 shoal"] * MAX_HOPS),
            b"508 Loop Detected",
            b"agent",
        ),
        (
            b"Host: pets.production\r\nProxy-Authorization: Basic eDp5\r\n",
            b"407 Proxy Authentication Required",
            b"caller",
        ),
    ],
)
def test_who_is_refused_before_any_phase(fields: bytes, status: bytes, policy: bytes) -> None:
    """Nobody is connected to."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + fields + b"\r\n"
        assert client << refusal(status, policy, b"") and play.idle


PHASES: dict[str, tuple[dict[str, Any], bytes, bytes]] = {
    "ratelimit": ({"limits": [{"name": "all", "rate": "1/h"}]}, b"429 Too Many Requests", b"ratelimit"),
    "fault": (
        {"expires": "2999-01-01T00:00:00Z", "rules": [{"abort": {"status": 418}}]},
        b"418 I'm a Teapot",
        b"fault",
    ),
    "route": ({"rules": [{"respond": {"status": 410, "body": "gone"}}]}, b"410 Gone", b"route"),
}


SETTERS: dict[str, tuple[dict[str, Any], bytes, bytes | None]] = {
    "nobody": ({}, b"", None),
    "a document, for the whole": ({"timeout": {"request": "20s"}}, b"", b"20000"),
    "a document, for something else": ({"timeout": {"try": "20s", "idle": "20s"}}, b"", None),
    "a document, without a limit": ({"timeout": {"request": 0}}, b"", None),
    "the client": ({}, b"x-shoal-deadline: 30000\r\n", b"30000"),
    "both": ({"timeout": {"request": "20s"}}, b"x-shoal-deadline: 30000\r\n", b"20000"),
}


@pytest.mark.parametrize("who", SETTERS)
@pytest.mark.parametrize("inbound", [False, True])
def test_only_a_deadline_that_somebody_set_travels(who: str, inbound: bool) -> None:
    """And only that cuts an answer whose bytes flow, on any hop."""
    documents, field, told = SETTERS[who]
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"), **documents)
        client = play.client(inbound=inbound)
        assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\n" + field + b"\r\n"
        up = play.upstream("one")
        sent = up.heard
        assert (b"x-shoal-deadline: %b\r\n" % told in sent) if told else b"x-shoal-deadline" not in sent
        assert up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(10):
            play.passes(4)
            assert up.closed or up >> b"1\r\nx\r\n"
        assert up.closed == (told is not None)
        assert up.closed or (up >> b"0\r\n\r\n" and client.heard.endswith(b"0\r\n\r\n"))


@pytest.mark.parametrize("length", [b"Content-Length: 3000000\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("status", [b"413 Content Too Large", b"403 Forbidden"])
def test_an_answer_that_is_here_already_is_passed_on(length: bytes, inbound: bool, status: bytes) -> None:
    """Though the instance takes no more of the request: it refused an upload before it had read it."""
    refusal = b"HTTP/1.1 %b\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge" % status
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"))
        client = play.client(inbound=inbound)
        assert client >> b"POST /a HTTP/1.1\r\nHost: pets.production\r\n" + length + b"\r\n"
        up = play.upstream("one")
        up.deaf = True
        piece = b"x" * 1000
        for _ in range(3):
            assert client >> (b"3e8\r\n" + piece + b"\r\n" if b"chunked" in length else piece)
        assert up >> refusal
        assert play.worker.table.services["pets.production"].stats.failures == {}
        assert client.heard.startswith(b"HTTP/1.1 %b\r\n" % status) and client.heard.endswith(b"large")


def test_an_instance_that_takes_no_more_and_says_nothing() -> None:
    """Then it is lost, as before; and what it may have seen is not sent again."""
    with Playbook() as play:
        play.put("one", "two")
        client = play.client()
        assert client >> POST + b"hel"
        up = play.upstream()
        up.deaf = True
        assert client >> b"lo" and up.breaks()
        assert client << refusal(b"502 Bad Gateway", b"endpoint", b"...") and play.idle


def test_a_host_that_a_rule_rewrote_is_delivered_all_the_same() -> None:
    """The calling agent says which instance it picked; who is no agent cannot."""
    request = b"GET /a HTTP/1.1\r\nHost: legacy.example.com\r\nx-shoal-endpoint: pets.production/one\r\n\r\n"
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"))
        play.worker.agents.learn({"there": "127.0.0.9"}, "here")
        agent = play.client(inbound=True, peer="127.0.0.9")
        assert agent >> request
        up = play.upstream("one")
        assert up << b"GET /a HTTP/1.1\r\nHost: legacy.example.com\r\n..."
        stranger = play.client(inbound=True, peer="127.0.0.8")
        assert stranger >> request
        assert stranger << refusal(b"404 Not Found", b"service", b"no service 'legacy.example.com'")


CLOSED = [kind.name for kind in KINDS if kind.fails_closed]
GUARDS = [kind.name for kind in KINDS if kind.fails_closed and kind.side is not Side.LEAVING and kind.tightest is None]


@pytest.mark.parametrize("kind", GUARDS)
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (PolicyFrame("*", 7, b"", "policies/x/* is refused"), b"policies/x/* is refused"),
        (PolicyFrame("*", 7, b'{"of_the_next_version": 1}'), b"...is not understood by this worker"),
    ],
)
def test_a_guard_that_nobody_knows_the_content_of(kind: str, frame: PolicyFrame, reason: bytes) -> None:
    """No request passes, from this host or another, whichever side asks it; until somebody knows."""
    with Playbook(host="here") as play:
        mine = play.instance("one", agent="here")
        play.put(mine, **{kind: frame})
        inbound = next(each for each in KINDS if each.name == kind).side is Side.CALLEE
        client = play.client(inbound=inbound)
        assert client >> GET
        assert client << refusal(b"503 Service Unavailable", kind.encode(), reason)
        assert play.idle
        assert play.worker.table.services["pets.production"].stats.refused[kind] == 1
        play.put(mine)
        client = play.client()
        assert client >> GET
        assert play.upstream("one")


@pytest.mark.parametrize("kind", sorted({kind.name for kind in KINDS} - set(CLOSED)))
def test_any_other_kind_counts_as_absent(kind: str) -> None:
    """It refuses nobody."""
    with Playbook() as play:
        play.put("one", **{kind: PolicyFrame("*", 7, b'{"of_the_next_version": 1}')})
        client = play.client()
        assert client >> GET
        assert play.upstream("one")


@pytest.mark.parametrize("kind", PHASES)
def test_a_phase_that_refuses_and_one_that_is_only_watched(kind: str) -> None:
    """Enforced, nobody is connected to; in audit mode the request goes on, and is counted."""
    document, status, policy = PHASES[kind]
    with Playbook() as play:
        play.put("one", **{kind: document})
        if kind == "ratelimit":
            client, up = talk(play)
            assert up >> OK
            assert client << RELAYED.replace(b"\r\n\r\n", b"\r\n" + LEFT + b"\r\n")
        client = play.client()
        assert client >> GET
        assert client << b"HTTP/1.1 %b\r\nserver: shoal\r\nx-shoal-policy: %b\r\n..." % (status, policy) and play.idle
    with Playbook() as play:
        play.put("one", **{kind: {**document, "mode": "audit"}})
        for _ in range(2):
            client, up = talk(play)
            assert up >> OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert watched(play.worker)[kind] >= 1


def test_a_delay_on_purpose_and_a_client_that_does_not_wait() -> None:
    """Who goes away meanwhile costs no instance anything."""
    rules = [{"delay": "1s"}]
    with Playbook() as play:
        play.put("one", fault={"expires": "2999-01-01T00:00:00Z", "rules": rules})
        waits, leaves = play.client(), play.client()
        assert waits >> GET and leaves >> GET
        assert leaves.ends()
        assert play.idle
        play.passes(1.1)
        assert play.upstream("one") << b"GET /a ..." and play.idle


def test_nobody_is_there() -> None:
    """No endpoint, or a route that leads to a service that is not."""
    with Playbook() as play:
        play.put()
        client = play.client()
        assert client >> GET
        assert client << refusal(b"503 Service Unavailable", b"endpoint", b"no endpoint of pets.production")
        play.put("one", route={"rules": [{"split": [{"service": "cats.production"}]}]})
        assert client >> GET
        assert client << refusal(b"503 Service Unavailable", b"route", b"the route leads to cats.production")


def test_connecting_fails_and_the_next_one_takes_it() -> None:
    """At once, whatever the method; and for a moment nobody else is sent to the first."""
    with Playbook() as play:
        play.put("one", "two")
        client = play.client()
        assert client >> POST + b"hello"
        first = play.dialled()
        other = "two" if first.name == "one" else "one"
        assert first.refuses()
        second = play.upstream(other)
        assert second << b"POST /a ...x-shoal-attempt: 2\r\n\r\nhello"
        assert second >> OK
        assert client << RELAYED
        for _ in range(5):
            assert client >> GET
            assert second << HEARD and play.idle
            assert second >> OK
            assert client << RELAYED


@pytest.mark.parametrize(
    ("method", "status"), [(b"GET", b"503 Service Unavailable"), (b"POST", b"503 Service Unavailable")]
)
def test_nobody_can_be_connected_to(method: bytes, status: bytes) -> None:
    """That no instance saw any of it is said, so that somebody before us may try elsewhere."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> (GET if method == b"GET" else POST + b"hello")
        assert play.dialled("one").refuses()
        play.passes(0.3)
        assert play.dialled("one").refuses()
        assert client << refusal(status, b"endpoint", b"cannot connect to") + b"x-shoal-unsent: 1\r\n..."


@pytest.mark.parametrize("slow", ["connecting", "answering", "both"])
def test_it_takes_too_long(slow: str) -> None:
    """Connecting, or one try: 504, and a POST is sent once."""
    with Playbook() as play:
        play.put("one", timeout={"connect": "1s", "try": "2s"}, retry={"attempts": 1})
        client = play.client()
        assert client >> POST + b"hello"
        up = play.dialled("one")
        if slow == "connecting":
            play.passes(1.1)
        else:
            up.accepts()
            assert up << b"POST ...hello"
            play.passes(2.1)
        assert up.closed and play.idle
        reason = b"cannot connect to" if slow == "connecting" else b"127.0.0.1:"
        assert client << refusal(b"504 Gateway Timeout", b"timeout", reason)


def test_the_whole_request_takes_too_long() -> None:
    """15 s from its last byte to the answer's first, where nobody said anything else."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        play.passes(14.9)
        assert client << b""
        play.passes(0.3)
        assert up.closed
        assert client << refusal(b"504 Gateway Timeout", b"timeout", b"no answer within the time allowed")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2"])
def test_the_connection_breaks_before_an_answer(answer: bytes) -> None:
    """A GET goes to the next one, a POST may have been carried out: 502."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        if answer:
            assert up >> answer
        assert up.breaks()
        play.passes(0.3)
        second = play.upstream("one")
        assert second << b"GET /a ...x-shoal-attempt: 2\r\n\r\n"
        assert second >> OK
        assert client << RELAYED
        assert client >> POST + b"hello"
        assert second << b"POST ...hello"
        assert second.breaks()
        assert client << refusal(b"502 Bad Gateway", b"endpoint", b"127.0.0.1:") and play.idle


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"220 smtp.example ESMTP\r\n\r\n",
    ],
)
def test_an_answer_that_cannot_be_read(answer: bytes) -> None:
    """502, and that connection is used no more."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> answer
        assert up.closed
        assert client << refusal(b"502 Bad Gateway", b"http", b"a broken answer from")


@pytest.mark.parametrize("how", ["breaks", "bad chunk", "silence", "eof"])
def test_an_answer_that_does_not_come_whole(how: str) -> None:
    """The client sees that it did not: nothing that looks like an end is sent."""
    with Playbook() as play:
        play.put("one", timeout={"idle": "5s"})
        client, up = talk(play)
        assert up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        assert client << b"HTTP/1.1 200 OK\r\n...3\r\nabc\r\n"
        if how == "breaks":
            up.breaks()
        elif how == "bad chunk":
            assert up >> b"zz\r\n"
        elif how == "silence":
            play.passes(5.1)
        else:
            up.ends()
        assert client << b"" and client.closed and up.closed


@pytest.mark.parametrize("said", [b"he", b"3\r\nhe"])
def test_a_request_that_does_not_come_whole(said: bytes) -> None:
    """408 when its body stops; 400 when it cannot be read; and a client that goes is parted from."""
    head = POST if said == b"he" else POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    with Playbook() as play:
        play.put("one", timeout={"idle": "5s"})
        stops, leaves = play.client(), play.client()
        ups = []
        for client in (stops, leaves):
            assert client >> head + said
            ups.append(play.upstream("one"))
        assert leaves.ends()
        assert ups[1].closed and leaves.closed
        play.passes(5.1)
        assert stops << refusal(b"408 Request Timeout", b"timeout", b"the request's body stopped coming")
        assert ups[0].closed
        if b"chunked" in head:
            garbles = play.client()
            assert garbles >> head + b"zz\r\n"
            assert garbles << refusal(b"400 Bad Request", b"http", b"a chunk size")


def test_a_callback_that_fails_costs_its_connection_and_nothing_else() -> None:
    """`abort` may be called at any time: the exchange ends once, loads are given back."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        play.connection(client).abort()
        play.worker.reactor._give_up(play.worker.reactor._callbacks[up._fd]) if not up.closed else None
        service = play.worker.table.services["pets.production"]
        assert (service.stats.active, service.plan.endpoints[0].load.active) == (0, 0)
        assert client.closed and up.closed


def test_a_connection_that_closed_leaves_no_garbage_behind() -> None:
    """It and its stream refer to each other, until it closes: a collection would stop every request."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        assert up >> OK
        assert client << RELAYED
        gc.collect()
        gc.disable()
        try:
            client.ends()
            left = [thing for thing in gc.get_objects() if isinstance(thing, ServerStream)]
        finally:
            gc.enable()
        assert client.closed and left == []


def test_a_hedge_that_is_not_made_costs_no_budget() -> None:
    """Not where the breaker of the other endpoint is open, nor where nobody lets it in: what is free is asked first."""
    budget = {"ratio": 0, "min_per_second": 1, "ttl": "1s"}
    with Playbook() as play:
        play.put(
            "one",
            "two",
            retry={"hedge": {"after": "20ms"}, "attempts": 3, "budget": budget},
            shed={"concurrency": 1},
        )
        service = play.worker.table.services["pets.production"]
        client = play.client()
        assert client >> GET
        up = play.upstream()
        play.passes(0.1)
        assert play.idle and "hedges" not in service.stats.failures
        assert service.budget.is_free(play.worker.reactor.now), "the hedge that was not let in has spent it"
        assert service.limiter is not None and service.limiter.active == 1
        assert up >> OK
        assert client << RELAYED and service.limiter.active == 0


def test_a_retry_that_the_breaker_forbids_costs_no_budget() -> None:
    """Likewise."""
    budget = {"ratio": 0, "min_per_second": 1, "ttl": "1s"}
    with Playbook() as play:
        play.put("one", retry={"attempts": 3, "budget": budget}, breaker={"limits": {"retries": 1}})
        service = play.worker.table.services["pets.production"]
        assert service.circuit is not None and service.circuit.may_retry()
        client, up = talk(play)
        assert up >> BUSY % b""
        assert client << b"HTTP/1.1 503 ..." and play.idle
        assert service.budget.is_free(play.worker.reactor.now)


@pytest.mark.parametrize("count", [2, 40])
def test_a_near_zone_that_refuses_hands_on_to_another(count: int) -> None:
    """However many it has: every one was ejected, or its breaker is open, and the other zone's takes the request."""
    with Playbook() as play:
        play.worker.table.zone = "a"
        near = [play.instance(f"near-{n}", zone="a") for n in range(count)]
        play.put(*near, play.instance("far", zone="b"))
        service = play.worker.table.services["pets.production"]
        for endpoint in service.plan.endpoints[:count]:
            endpoint.load.refused_until = play.worker.reactor.now + 30
        for _ in range(5):
            client = play.client()
            assert client >> GET
            assert play.upstream("far") << HEARD


# When an instance says when.


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


# In: the agent beside the instance.


def inbound(play: Playbook, name: str, **documents: Any) -> Wire:
    play.put(play.instance(name, agent="here"), **documents)
    return play.client(inbound=True)


def test_it_delivers_to_the_one_that_was_picked() -> None:
    """With who calls, and without what agents say to each other; the caller's agent is no link of the chain."""
    with Playbook(host="here") as play:
        agent = inbound(play, "one")
        assert agent >> DELIVER % b"one"
        up = play.upstream("one")
        assert up << (
            b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nvia: 1.1 shoal, 1.1 shoal\r\n"
            b"x-shoal-caller: shop.production\r\n\r\n"
        )
        assert up >> OK
        assert agent << RELAYED


@pytest.mark.parametrize(("wanted", "policy"), [(b"two", b"endpoint"), (b"", b"endpoint")])
def test_one_that_is_not_here(wanted: bytes, policy: bytes) -> None:
    """Said so, and that nothing was sent: the caller's agent may go elsewhere."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="elsewhere"))
        agent = play.client(inbound=True)
        head = DELIVER % wanted
        assert agent >> (head if wanted else head.replace(b"X-Shoal-Endpoint: pets.production/\r\n", b""))
        assert agent << refusal(b"503 Service Unavailable", policy, b"") + b"x-shoal-unsent: 1\r\n..." and play.idle


def test_it_never_tries_again() -> None:
    """A connection that is refused, one that breaks, and an answer of 503 each go back as what they are."""
    with Playbook(host="here") as play:
        agent = inbound(play, "one")
        assert agent >> DELIVER % b"one"
        assert play.dialled("one").refuses()
        assert agent << refusal(b"503 Service Unavailable", b"endpoint", b"cannot connect to") + (
            b"x-shoal-unsent: 1\r\n..."
        )
        assert agent >> DELIVER % b"one"
        assert play.upstream("one").breaks()
        assert agent << refusal(b"502 Bad Gateway", b"endpoint", b"127.0.0.1:")
        assert agent >> DELIVER % b"one"
        assert play.upstream("one") >> BUSY % b""
        assert agent << b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nvia: 1.1 shoal\r\n\r\n" and play.idle


@pytest.mark.parametrize("local", [False, True])
def test_one_way_in(local: bool) -> None:
    """Whoever calls, from another host or from this one, meets the same inbound phases; nobody is connected to."""
    with Playbook(host="here") as play:
        agent = inbound(play, "one", shed={"concurrency": 1})
        service = play.worker.table.services["pets.production"]
        caller, head = (play.client(), GET) if local else (agent, DELIVER % b"one")
        assert caller >> head
        up = play.upstream("one")
        other = play.client(inbound=not local)
        assert other >> (DELIVER % b"one" if local else GET)
        said = b"HTTP/1.1 503 ...x-shoal-policy: shed\r\n...x-shoal-shed: 1\r\n..."
        assert other << said and play.idle
        assert service.stats.shed["refused"] == 1
        assert up >> OK
        assert caller << RELAYED
        assert service.limiter is not None and service.limiter.active == 0


def test_inbound_phases_are_those_of_the_instances_service() -> None:
    """A route of pets leads to cats: it is cats' load that counts, as for a caller beside it."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"))
        play.put(play.instance("tom", agent="here"), service="cats.production", shed={"concurrency": 1})
        head = (DELIVER % b"tom").replace(b"pets.production/tom", b"cats.production/tom")
        agents = [play.client(inbound=True) for _ in range(2)]
        assert agents[0] >> head
        assert play.upstream("tom") << b"GET /a ..."
        assert agents[1] >> head
        assert agents[1] << b"HTTP/1.1 503 ...x-shoal-shed: 1\r\n..." and play.idle


def test_a_caller_takes_the_way_out_that_its_document_names() -> None:
    """The instance's agent lets no more in: to cats, as if nothing had been sent."""
    with Playbook(host="here") as play:
        far = play.instance("far", agent="there", via=True)
        play.put(far, shed={"concurrency": 5, "instead": [{"service": "cats.production"}]})
        play.put("tom", service="cats.production")
        client = play.client()
        assert client >> GET
        up = play.upstream("far")
        assert up << b"GET /a ...x-shoal-endpoint: pets.production/far\r\n..."
        assert up >> BUSY % b"x-shoal-shed: 1\r\n"
        assert play.upstream("tom") << b"GET /a ..."
        service = play.worker.table.services["pets.production"]
        assert service.stats.shed == {"elsewhere": 1} and service.stats.failures == {}


# Another agent's question.


def test_a_question_meets_no_phase() -> None:
    """It is control that answers; a question that does not come whole, or is too long, is not asked."""
    question = b"POST /shares HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: 5\r\n\r\n"
    with Playbook() as play:
        play.put("one")
        asked: list[Peer] = []
        play.worker.peers.connect(asked.append)
        agent = play.client(inbound=True)
        assert agent >> question + b"he"
        assert agent >> b"llo"
        assert (asked[0].path, asked[0].body) == ("/shares", b"hello")
        play.worker.peers.answer(asked[0].id, 200, b"so it is")
        assert agent << b"HTTP/1.1 200 OK\r\ncontent-type: application/msgpack\r\ncontent-length: 8\r\n\r\nso it is"
        assert agent >> question + b"hello"
        play.passes(6)
        assert agent << refusal(b"504 Gateway Timeout", b"agent", b"no answer in time")
        play.worker.peers.answer(asked[1].id, 200, b"too late")
        assert agent << b""
        assert agent >> question
        assert agent.ends()
        assert agent.closed and len(asked) == 2
