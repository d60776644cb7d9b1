"""What RFC 9110 and RFC 9112 ask of a proxy, byte by byte."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest
import trio

from agent.frames import Configure, Limits
from agent.proxy.http1.framing import ChunkedDecoder
from agent.proxy.http1.head import parse_request
from agent.proxy.messages.head import BadHead
from agent.proxy.messages.outgoing import hops
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import Client, endpoint, running_proxy

HOST = b"Host: pets.production\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asked(play: Playbook, request: bytes, answer: bytes = b"") -> tuple[Wire, Wire]:
    """A client's request on its way, and perhaps answered."""
    play.put("one")
    client = play.client()
    assert client >> request
    up = play.upstream("one")
    if answer:
        assert up >> answer
    return client, up


# Requests: CONNECT, OPTIONS, TRACE.


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/path", 400),
        (b"http://pets.production/", 400),
        (b"pets.production", 400),
        (b"pets.production:0", 400),
        (b"pets.production:65536", 400),
        (b"*", 400),
        (b"pets.production:443", 405),
        (b"[::1]:443", 405),
    ],
)
def test_connect_wants_a_host_and_a_port(target: bytes, status: int) -> None:
    """And then there are no tunnels, which is said with what there is (RFC 9110 sections 9.3.6 and 15.5.6)."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        assert client >> b"CONNECT %b HTTP/1.1\r\n" % target + HOST + b"\r\n"
        assert client.heard.startswith(b"HTTP/1.1 %d" % status) and play.idle
        assert (b"\r\nallow: GET, " in client.heard) == (status == 405)


@pytest.mark.parametrize(
    ("method", "target", "sent"),
    [
        (b"OPTIONS", b"http://pets.production", b"*"),
        (b"OPTIONS", b"http://pets.production:80", b"*"),
        (b"OPTIONS", b"http://pets.production/", b"/"),
        (b"OPTIONS", b"http://pets.production?x", b"/?x"),
        (b"OPTIONS", b"*", b"*"),
        (b"GET", b"http://pets.production", b"/"),
    ],
)
def test_options_of_a_server(method: bytes, target: bytes, sent: bytes) -> None:
    """RFC 9112 section 3.2.4."""
    with Playbook() as play:
        _, up = asked(play, b"%b %b HTTP/1.1\r\n" % (method, target) + HOST + b"\r\n")
        assert up << b"%b %b HTTP/1.1\r\n...\r\n\r\n" % (method, sent)


@pytest.mark.parametrize(
    ("method", "value", "passed_on"),
    [
        (b"OPTIONS", b"1", b"0"),
        (b"TRACE", b"010", b"9"),
        (b"OPTIONS", b"-1", b"-1"),
        (b"GET", b"0", b"0"),
        (b"POST", b"7", b"7"),
    ],
)
def test_max_forwards_is_counted_down(method: bytes, value: bytes, passed_on: bytes) -> None:
    """For two methods (RFC 9110 section 7.6.2); once a hop, however often it is tried."""
    with Playbook() as play:
        _, up = asked(play, method + b" / HTTP/1.1\r\n" + HOST + b"Max-Forwards: %b\r\n\r\n" % value)
        assert re.findall(rb"(?i)max-forwards: ([^\r]*)\r\n", up.heard) == [passed_on]


@pytest.mark.parametrize(("method", "status"), [(b"OPTIONS", 200), (b"TRACE", 405)])
@pytest.mark.parametrize("inbound", [False, True])
def test_at_zero_the_agent_answers(method: bytes, status: int, inbound: bool) -> None:
    """With what it takes."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"))
        client = play.client(inbound=inbound)
        assert client >> method + b" / HTTP/1.1\r\n" + HOST + b"Max-Forwards: 0\r\n\r\n"
        assert client.heard.startswith(b"HTTP/1.1 %d" % status) and b"\r\nallow: GET, " in client.heard
        assert play.idle and not client.closed


# Host.


@pytest.mark.parametrize(
    "host", [b"pets..production", b".pets", b"pets:0", b"pets:65536", b"pets:99999", b"pets..:80", b"a:b", b""]
)
def test_a_host_that_cannot_be(host: bytes) -> None:
    """In the field, and in the target."""
    with pytest.raises(BadHead, match="Host"):
        parse_request(b"GET / HTTP/1.1\r\nHost: " + host)
    with pytest.raises(BadHead):
        parse_request(b"GET http://%b/ HTTP/1.1\r\nHost: a" % host)


@pytest.mark.parametrize(
    "host", [b"pets.", b"pets.production.:80", b"pets:1", b"pets:65535", b"pets:00080", b"[::1]:80"]
)
def test_a_host_that_can_be(host: bytes) -> None:
    """One dot at the end is that of a name in full."""
    assert parse_request(b"GET / HTTP/1.1\r\nHost: " + host).host == host


def test_an_answer_may_have_any_host() -> None:
    """It means nothing there; and goes where Connection says so."""
    with Playbook() as play:
        client, _ = asked(
            play,
            b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
            b"HTTP/1.1 200 OK\r\nHost: a b\r\nContent-Length: 2\r\n\r\nok",
        )
        assert client << b"HTTP/1.1 200 OK\r\nHost: a b\r\nContent-Length: 2\r\nvia: 1.1 shoal\r\n\r\nok"


# Via.


def test_via_has_the_version_that_was_received() -> None:
    """Of the request, and of the answer (RFC 9110 section 7.6.3); a connection may change."""
    with Playbook() as play:
        client, up = asked(
            play,
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        assert b"\r\nvia: 1.0 shoal\r\n" in up.heard and b"\r\nvia: 1.0 shoal\r\n" in client.heard
        client.heard = b""
        assert client >> b"GET / HTTP/1.1\r\nVia: 1.0 cdn\r\n" + HOST + b"\r\n"
        again = play.upstream("one")
        assert again >> OK
        assert b"\r\nvia: 1.0 cdn, 1.1 shoal\r\n" in again.heard and b"\r\nvia: 1.1 shoal\r\n" in client.heard


@pytest.mark.parametrize(
    ("via", "agents"),
    [
        (b"1.1 shoal", 1),
        (b"1.0 shoal, 1.1 cdn, HTTP/1.1 shoal , 1.1 shoal (x)", 3),
        (b"1.1 shoal-gateway, 1.1 my-shoal, 1.1 shoal.corp, 1.1 shoal:80", 0),
        (b"1.1 cdn (shoal, 1.1 shoal), 1.1 shoaling", 0),
        (b"shoal, shoal, 1.1 SHOAL", 0),
    ],
)
def test_who_else_has_shoal_in_a_name_is_no_agent(via: bytes, agents: int) -> None:
    """Nor who has it in a comment."""
    assert hops(via) == agents


def test_a_loop_is_one_of_agents() -> None:
    """Ten gateways of another make are none."""
    with Playbook() as play:
        via = b"Via: " + b", ".join([b"1.1 shoal-gateway"] * 12) + b"\r\n\r\n"
        asked(play, b"GET / HTTP/1.1\r\n" + HOST + via, OK)
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + via.replace(b"-gateway", b"")
        assert client.heard.startswith(b"HTTP/1.1 508")


# Answers.


@pytest.mark.parametrize("status", [b"204 No Content", b"103 Early Hints", b"102 Processing"])
def test_what_has_no_body_has_no_length(status: bytes) -> None:
    """RFC 9110 section 8.6."""
    with Playbook() as play:
        answer = b"HTTP/1.1 %b\r\nContent-Length: 0\r\nX: 1\r\n\r\n" % status
        client, _ = asked(play, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", answer)
        assert client.heard.startswith(b"HTTP/1.1 %b\r\nX: 1\r\n" % status)
        assert b"ontent-" not in client.heard


def test_a_204_that_announces_bytes_is_the_last_of_its_connection() -> None:
    """They would be taken for the next answer; one that announces none is not."""
    for length, reused in ((b"5", False), (b"0", True)):
        with Playbook() as play:
            answer = b"HTTP/1.1 204 No Content\r\nContent-Length: %b\r\n\r\n" % length
            _, up = asked(play, b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n", answer)
            assert up.closed is not reused


@pytest.mark.parametrize(("status", "lengths"), [(204, 0), (304, 0), (205, 1), (200, 1)])
def test_neither_has_one_of_our_own(status: int, lengths: int) -> None:
    """As a route says."""
    with Playbook() as play:
        play.put("one", route={"rules": [{"respond": {"status": status}}]})
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
        assert client.heard.count(b"content-length: 0\r\n") == lengths


def test_an_answer_without_a_date_gets_one() -> None:
    """The time that it came; one that has it keeps it, and so do our own (RFC 9110 section 6.6.1)."""
    for date, own in ((b"", True), (b"Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n", False)):
        with Playbook() as play:
            answer = b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % date
            client, _ = asked(play, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", answer)
            (found,) = re.findall(rb"(?i)\r\ndate: ([^\r]*)", client.heard)
            assert (parsedate_to_datetime(found.decode()).year > 2000) is own
    for request in (b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n", b"GET\r\n\r\n"):
        with Playbook() as play:
            play.put("one")
            client = play.client()
            assert client >> request
            assert client.heard.count(b"\r\ndate: ") == 1


# Chunks and trailers.


@pytest.mark.parametrize(
    "line",
    [b"5 ", b"5\t", b"5;", b"5;;a", b"5;bad[=x", b"5;a=", b"5;a=b c", b'5;a="x', b"5;a ", b" 5", b"0x5", b'5;a="\x01"'],
)
def test_a_chunk_size_that_is_none(line: bytes) -> None:
    """RFC 9112 section 7.1."""
    with pytest.raises(BadHead, match="chunk size"):
        ChunkedDecoder().feed(line + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("line", [b"5", b"005", b"5;a", b"5;a=b;c", b'5;a="b;\\"c"', b"5 ; a = b", b'5;a="";b'])
def test_a_chunk_size_with_extensions(line: bytes) -> None:
    """They end here."""
    decoder = ChunkedDecoder()
    assert decoder.feed(line + b"\r\nhello\r\n0\r\n\r\n") == b"hello" and decoder.done


FORBIDDEN = (
    *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Trailer", b"TE", b"Connection", b"Upgrade", b"Via"),
    *(b"X-Forwarded-For", b"Authorization", b"Cookie", b"Set-Cookie", b"Content-Type", b"Content-Encoding"),
    *(b"Content-Range", b"Cache-Control", b"If-Match", b"If-None-Match", b"Range", b"Expect", b"Max-Forwards"),
    *(b"Pragma", b"Age", b"Expires", b"Date", b"Location", b"Retry-After", b"Vary", b"Warning", b"WWW-Authenticate"),
    *(b"Proxy-Authorization", b"X-Shoal-Caller", b"X-Shoal-Priority"),
)


def test_trailers_that_belong_into_a_head_are_dropped() -> None:
    """What says how the message is framed, routed, judged or read; others are passed on, both ways."""
    trailers = b"".join(b"%b: 1\r\n" % name for name in FORBIDDEN)
    body = b"5\r\nhello\r\n0\r\n" + trailers + b"grpc-status: 0\r\nETag: x\r\n\r\n"
    with Playbook() as play:
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        client, up = asked(play, head + body, answer + body)
        for wire in (client, up):
            assert wire.heard.endswith(b"5\r\nhello\r\n0\r\ngrpc-status: 0\r\nETag: x\r\n\r\n")


# Connections.


@pytest.mark.parametrize(
    ("method", "framing", "reused"),
    [
        (b"GET", b"Content-Length: 2\r\n\r\nab", False),
        (b"HEAD", b"Content-Length: 2\r\n\r\nab", False),
        (b"GET", b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", False),
        (b"GET", b"Content-Length: 0\r\n\r\n", True),
        (b"GET", b"\r\n", True),
        (b"POST", b"Content-Length: 2\r\n\r\nab", True),
    ],
)
def test_a_connection_that_took_a_get_with_a_body_takes_no_other(method: bytes, framing: bytes, reused: bool) -> None:
    """A server that looks for none would take the body for its next request."""
    with Playbook() as play:
        request = method + b" / HTTP/1.1\r\n" + HOST + framing
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        client, up = asked(play, request, answer)
        assert client.heard.startswith(b"HTTP/1.1 200") and not client.closed
        assert up.closed is not reused


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"POST"])
def test_a_connection_that_was_closed_meanwhile_is_not_taken(method: bytes) -> None:
    """Whatever the method, and where nothing is tried again; it is seen before the loop hears of it."""
    with Playbook() as play:
        play.put("one", retry={"attempts": 1})
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
        up = play.upstream("one")
        assert up >> OK
        play.passes(0.2)
        up._said.append(b"")
        client.heard = b""
        assert client >> method + b" / HTTP/1.1\r\n" + HOST + b"\r\n"
        assert up.closed
        assert play.upstream("one") >> b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        assert client.heard.startswith(b"HTTP/1.1 200")


async def cut_short(client: Client) -> None:
    """An instance that promises more than it says."""
    await client.head()
    await client.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")


async def whole(client: Client) -> None:
    """And one that does not."""
    await client.head()
    await client.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    await trio.sleep_forever()


@pytest.mark.parametrize("instance", [cut_short, whole])
async def test_a_client_of_before_sees_that_an_answer_was_cut(instance: object) -> None:
    """Where the end of the answer is that of the connection, a cut is a reset."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(instance)))  # type: ignore[arg-type]
        client = await proxy.client()
        await client.send(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
        try:
            ended = (await client.rest()).endswith(b"ok")
        except trio.BrokenResourceError:
            ended = False
        assert ended is (instance is whole)


async def test_an_answer_arrives_however_much_is_sent_behind_it() -> None:
    """For as long as the agent lingers: eight megabytes here, of which nobody wants any."""
    async with running_proxy() as proxy:
        proxy.put()
        client = await proxy.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 8388608\r\n\r\n")
        for _ in range(128):
            await client.send(b"x" * 65536)
        assert (await client.rest()).startswith(b"HTTP/1.1 404")


# What the agent's settings say of heads.


def configured(play: Playbook, **limits: object) -> None:
    play.put("one")
    assert play.worker.take(Configure(limits=Limits(**limits))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("underscores", "heard"), [("allow", True), ("drop", False), ("refuse", None), ("new", True)])
def test_underscores(underscores: str, heard: bool | None) -> None:
    """Passed on, left out, or refused by name."""
    with Playbook() as play:
        configured(play, underscores=underscores)
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + b"X_User: a\r\nX-Id: 1\r\n\r\n"
        if heard is None:
            assert client.heard.startswith(b"HTTP/1.1 400") and b"x_user" in client.heard and play.idle
        else:
            up = play.upstream("one")
            assert (b"\r\nX_User: a\r\n" in up.heard) is heard and b"\r\nX-Id: 1\r\n" in up.heard


@pytest.mark.parametrize(
    "name", [b"X_Shoal_Caller", b"x-shoal_priority", b"X_Forwarded_For", b"x_forwarded-proto", b"Transfer_Encoding"]
)
@pytest.mark.parametrize("inbound", [False, True])
def test_an_underscore_says_nothing_that_is_the_meshs_to_say(name: bytes, inbound: bool) -> None:
    """A server that takes it for a hyphen would believe it; of an agent, too."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"))
        client = play.client(inbound=inbound)
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + name + b": 1\r\n\r\n"
        assert name.lower() not in play.upstream("one").heard.lower()


def test_a_field_with_an_underscore_is_one_that_connection_may_name() -> None:
    """As any other, of a request and of an answer."""
    with Playbook() as play:
        request = b"GET / HTTP/1.1\r\n" + HOST + b"X_A: 1\r\nConnection: x_a\r\n\r\n"
        answer = b"HTTP/1.1 200 OK\r\nX_B: 1\r\nConnection: x_b\r\nContent-Length: 0\r\n\r\n"
        client, up = asked(play, request, answer)
        assert b"X_A" not in up.heard and b"X_B" not in client.heard and client.heard


def test_a_head_as_large_as_the_settings_say() -> None:
    """In one piece and in many, also behind another request; of an answer, too."""
    large = b"X: " + b"x" * 200_000 + b"\r\n"
    request = b"GET / HTTP/1.1\r\n" + HOST + large + b"\r\n"
    with Playbook() as play:
        configured(play, head_bytes=262_144)
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + b"\r\n" + request[:100_000]
        up = play.upstream("one")
        assert up >> OK
        assert play.connection(client).reads
        assert client >> request[100_000:]
        up.heard = client.heard = b""
        assert up >> b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + large + b"\r\n"
        assert large in client.heard
    with Playbook() as play:
        configured(play, head_bytes=4096)
        client = play.client()
        assert client >> b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 4096
        assert client.heard.startswith(b"HTTP/1.1 431") and b"more than 4096 bytes" in client.heard


def test_as_many_fields_as_the_settings_say() -> None:
    """And no more."""
    for fields, status in ((300, 200), (301, 431)):
        with Playbook() as play:
            configured(play, head_fields=300)
            client = play.client()
            assert client >> b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * (fields - 1) + b"\r\n"
            if status == 200:
                assert play.upstream("one") >> OK
            assert client.heard.startswith(b"HTTP/1.1 %d" % status)
