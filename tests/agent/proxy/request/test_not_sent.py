"""A request that leaves: what goes wrong before an instance has it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.frames import PolicyFrame
from agent.proxy.request.exchange import MAX_HOPS
from policies.catalogue import KINDS
from policies.kind import Side
from tests.support.conversation import GET, HEARD, LEFT, OK, POST, RELAYED, refusal, talk
from tests.support.playbook import Playbook
from tests.support.proxy import watched


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
        stats = play.worker.table.services["pets.production"].stats
        assert (stats.refused_second if inbound else stats.refused)[kind] == 1
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
