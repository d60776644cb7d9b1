"""Heads: what is accepted has one reading, and everything else is refused with a reason."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.proxy.http1.head import check_incomplete, parse_request, parse_response
from agent.proxy.messages.head import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, BadHead
from agent.proxy.messages.outgoing import request_fields

HOST = b"Host: pets.production"


def request(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([first, HOST, *lines])


def test_origin_form() -> None:
    """The common request."""
    head = parse_request(request(b"Accept: */*", first=b"GET /a?b=c HTTP/1.1"))
    assert (head.method, head.target, head.host) == (b"GET", b"/a?b=c", b"pets.production")
    assert not head.close
    assert head.framing == NO_BODY


def test_absolute_form_overrides_the_host() -> None:
    """RFC 9112 section 3.2.2: the target wins, and the next hop sees one Host that agrees with it."""
    head = parse_request(request(first=b"GET http://cats.staging:80/x HTTP/1.1"))
    assert head.host == b"cats.staging:80"
    assert head.target == b"/x"
    assert [f.wire for f in head.fields if f.name == b"host"] == [b"host: cats.staging:80\r\n"]


def test_absolute_form_without_path() -> None:
    """`http://pets.production?x=1` asks for `/?x=1`."""
    assert parse_request(request(first=b"GET http://pets.production?x=1 HTTP/1.1")).target == b"/?x=1"


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (request(b"Content-Length: 1", b"Transfer-Encoding: chunked"), "both"),
        (request(b"Content-Length: 1", b"Content-Length: 1"), "two Content-Length"),
        (request(b"Content-Length: 1", b"Content-Length: 2"), "two Content-Length"),
        (request(b"Content-Length: 1, 1"), "Content-Length"),
        (request(b"Content-Length: +1"), "Content-Length"),
        (request(b"Content-Length: 0x1"), "Content-Length"),
        (request(b"Content-Length: "), "Content-Length"),
        (request(b"Content-Length: 9999999999999999999"), "Content-Length"),
        (request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "two Transfer-Encoding"),
        (request(b"Transfer-Encoding: gzip, chunked"), "other than chunked"),
        (request(b"Transfer-Encoding: xchunked"), "other than chunked"),
        (request(b"Transfer-Encoding : chunked"), "before the colon"),
        (request(b"X: 1", b" folded"), "folding"),
        (request(b"\tX: 1"), "folding"),
        (request(b"no colon"), "without a colon"),
        (request(b": nameless"), "without a name"),
        (request(b"X\x00Y: 1"), "not allowed"),
        (request(b"X: a\x00b"), "control character"),
        (request(b"X: a\rb"), "control character"),
        (request(b"X: a\nContent-Length: 5"), "control character"),
        (request(b"X: a\x7fb"), "control character"),
        (request(b"Host: other"), "two Host"),
        (b"GET / HTTP/1.1", "no Host"),
        (b"GET / HTTP/1.1\r\nHost: ", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a b", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a/b", "Host"),
        (b"GET / HTTP/1.1\r\nHost: user@a", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a:port", "Host"),
        (request(first=b"GET  / HTTP/1.1"), "request line"),
        (request(first=b"GET / HTTP/1.1 "), "request line"),
        (request(first=b"GET /\x80 HTTP/1.1"), "request line"),
        (request(first=b"GET\t/ HTTP/1.1"), "request line"),
        (request(first=b"G(T / HTTP/1.1"), "request line"),
        (request(first=b"GET / http/1.1"), "request line"),
        (request(first=b"GET /#f HTTP/1.1"), "fragment"),
        (request(first=b"GET x HTTP/1.1"), "target"),
        (request(first=b"GET * HTTP/1.1"), "target"),
        (request(first=b"GET ftp://a/ HTTP/1.1"), "http://"),
        (request(first=b"GET http://u:p@a/ HTTP/1.1"), "authority"),
    ],
)
def test_ambiguous_is_400(head: bytes, word: str) -> None:
    """Whatever two parsers could read in two ways is refused, and the reason names it."""
    with pytest.raises(BadHead, match=word) as caught:
        parse_request(head)
    assert caught.value.status in (400, 501)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(first=b"GET / HTTP/2.0"), 505),
        (request(first=b"GET / HTTP/1.2"), 505),
        (request(first=b"CONNECT pets.production HTTP/1.1"), 400),
        (request(first=b"CONNECT http://pets.production:443/ HTTP/1.1"), 400),
        (request(first=b"CONNECT *:443 HTTP/1.1"), 400),
        (request(b"Content-Length: 1", first=b"CONNECT pets.production:443 HTTP/1.1"), 400),
        (request(b"Expect: something"), 417),
        (request(*[b"X: 1"] * 100), 431),
        (request(b"X: " + b"a" * 61440), 431),
        (b"\r\n".join([b"POST / HTTP/1.0", HOST, b"Transfer-Encoding: chunked"]), 400),
    ],
)
def test_refused_with_its_own_status(head: bytes, status: int) -> None:
    """Limits, versions and methods have statuses of their own."""
    with pytest.raises(BadHead) as caught:
        parse_request(head)
    assert caught.value.status == status


def test_a_hundred_fields_are_accepted() -> None:
    """The limit itself is allowed."""
    assert len(parse_request(request(*[b"X: 1"] * 99)).fields) == 100


def test_a_remembered_line_is_judged_the_same() -> None:
    """Heads with the same lines read the same, first time or later."""
    head = request(b"X-Own: 1", b"Content-Length: 3")
    first, second = parse_request(head), parse_request(head)
    assert first.fields == second.fields
    assert (first.framing, first.length) == (second.framing, second.length) == (LENGTH, 3)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\n", b"GET /\0"])
def test_incomplete_heads_that_nothing_can_mend(data: bytes) -> None:
    """A bare LF is refused at once, not after the head's time-out."""
    with pytest.raises(BadHead):
        check_incomplete(data)


def test_incomplete_head_that_may_come_whole() -> None:
    """No verdict before its time."""
    check_incomplete(b"GET / HTTP/1.1\r\nHo")


def test_connection_and_upgrade() -> None:
    """Upgrade counts only together with Connection: upgrade, without a body, and never for h2c."""
    assert parse_request(request(b"Connection: Upgrade", b"Upgrade: websocket")).upgrade == b"websocket"
    assert parse_request(request(b"Upgrade: websocket")).upgrade == b""
    assert parse_request(request(b"Connection: upgrade", b"Upgrade: h2c")).upgrade == b""
    with_body = parse_request(request(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 1"))
    assert with_body.upgrade == b""


def test_http10_closes_unless_it_asks_to_stay() -> None:
    """RFC 9112 section 9.3."""
    assert parse_request(request(first=b"GET / HTTP/1.0")).close
    assert not parse_request(request(b"Connection: keep-alive", first=b"GET / HTTP/1.0")).close
    assert parse_request(request(b"Connection: close")).close


def test_hop_by_hop_fields_end_here() -> None:
    """RFC 9110 section 7.6.1, with what Connection names; but Connection cannot take the framing away."""
    head = parse_request(
        request(b"Connection: x-private, content-length", b"X-Private: 1", b"Keep-Alive: 5", b"TE: trailers",
                b"Proxy-Authorization: Basic eA==", b"Content-Length: 2", b"X-Shoal-Caller: admin", b"Y: 2")
    )  # fmt: skip
    names = [line.split(b":")[0].lower() for line in request_fields(head, None)]
    assert names == [b"host", b"content-length", b"y"]


@pytest.mark.parametrize(
    ("lines", "method", "framing"),
    [
        ([b"HTTP/1.1 200 OK", b"Content-Length: 5"], b"GET", LENGTH),
        ([b"HTTP/1.1 200 OK", b"Content-Length: 5"], b"HEAD", NO_BODY),
        ([b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"], b"GET", CHUNKED),
        ([b"HTTP/1.1 200 OK"], b"GET", UNTIL_CLOSE),
        ([b"HTTP/1.1 204 No Content"], b"GET", NO_BODY),
        ([b"HTTP/1.1 304 Not Modified", b"Content-Length: 5"], b"GET", NO_BODY),
        ([b"HTTP/1.1 100"], b"POST", NO_BODY),
        ([b"HTTP/1.0 200 "], b"GET", UNTIL_CLOSE),
    ],
)
def test_response_framing(lines: list[bytes], method: bytes, framing: int) -> None:
    """RFC 9112 section 6.3."""
    assert parse_response(b"\r\n".join(lines), method).framing == framing


@pytest.mark.parametrize(
    "lines",
    [
        [b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Content-Length: 5"],
        [b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"],
        [b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 99 Low"],
        [b"HTTP/1.1 600 High"],
        [b"HTTP/1.1 2000 Long"],
        [b"HTTP/2 200"],
        [b"ICY 200 OK"],
        [b"HTTP/1.1 200 OK", b"X: a\nb"],
        [b"HTTP/1.1 200 OK", b" folded: 1"],
    ],
)
def test_broken_responses(lines: list[bytes]) -> None:
    """Upstream answers are judged as strictly as requests."""
    with pytest.raises(BadHead):
        parse_response(b"\r\n".join(lines), b"GET")


class Heard:
    """What llhttp makes of the same bytes."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


_NAMES = st.sampled_from(
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"X-A", b"Connection", b"Accept", b"x y", b""]
)
_VALUES = st.one_of(
    st.sampled_from(
        [b"pets.production", b"5", b"0", b"chunked", b"close", b"a\rb", b"gzip, chunked", b"  padded ", b"\x01"]
    ),
    st.binary(max_size=12),
)
_SEPARATORS = st.sampled_from([b": ", b":", b" : ", b":\t", b""])
_ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n "])


@given(
    first=st.sampled_from(
        [b"GET / HTTP/1.1", b"POST /x?y HTTP/1.1", b"GET / HTTP/1.0", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 "]
    ),
    lines=st.lists(st.tuples(_NAMES, _SEPARATORS, _VALUES, _ENDS), max_size=6),
)
def test_llhttp_agrees_with_all_that_is_accepted(first: bytes, lines: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    """An independent strict parser accepts what we pass on, and reads the same fields in it."""
    head = first + b"\r\n" + b"".join(b"".join(line) for line in lines)
    try:
        ours = parse_request(head.removesuffix(b"\r\n"))
    except BadHead:
        return
    sent = b"%b %b HTTP/1.1\r\n" % (ours.method, ours.target) + b"".join(f.wire for f in ours.fields) + b"\r\n"
    heard = Heard()
    parser = httptools.HttpRequestParser(heard)
    parser.feed_data(sent)
    assert heard.complete
    assert heard.url == ours.target
    assert heard.fields == [(f.name, f.value) for f in ours.fields]
