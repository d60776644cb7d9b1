"""W3C Trace Context, as the next hop hears it: the behaviours that the W3C's own test suite asks of an implementation,
by the names that it gives them, and more of the kind."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.proxy.http1.head import parse_request
from agent.proxy.messages.head import HeadRules
from agent.proxy.messages.trace_context import MAX_MEMBERS, is_traceparent, list_of, read
from tests.support.playbook import Playbook

TRACE = b"12345678901234567890123456789012"
PARENT = b"1234567890123456"
VALID = b"00-%b-%b-01" % (TRACE, PARENT)
KEPT = VALID[:-2] + b"00"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Chain:
    """A service that is traced, and what it hears of a request with these headers."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.client = play.client()
        self.up: object = None

    def hears(self, *lines: bytes) -> tuple[bytes, bytes, bytes | None]:
        """The trace, the parent and the tracestate that the instance hears."""
        head = self.heard(*lines)
        parents = re.findall(rb"\r\ntraceparent: (.*?)\r\n", head, re.IGNORECASE)
        assert len(parents) == 1 and is_traceparent(parents[0]) and parents[0][:3] == b"00-", head
        states = re.findall(rb"\r\ntracestate: (.*?)\r\n", head, re.IGNORECASE)
        assert len(states) <= 1
        return parents[0][3:35], parents[0][36:52], states[0] if states else None

    def heard(self, *lines: bytes) -> bytes:
        head = b"GET / HTTP/1.1\r\nHost: pets.production\r\n" + b"".join(line + b"\r\n" for line in lines)
        assert self.client >> head + b"\r\n"
        up = self.play.upstream() if self.up is None else self.up
        self.up = up
        found, up.heard = up.heard, b""  # type: ignore[attr-defined]
        assert up >> OK  # type: ignore[operator]
        self.client.heard = b""
        return bytes(found)


@pytest.fixture(params=["every trace", "none", "none, and no failure"])
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    """Whether spans are made of it or not, the headers keep to the rules."""
    share, errors = {"every trace": (1, True), "none": (0, True), "none, and no failure": (0, False)}[request.param]
    with Playbook() as play:
        play.worker.spans.wanted = True
        play.put("one", trace={"share": share, "errors": errors})
        yield Chain(play)


def test_both_traceparent_and_tracestate_missing(chain: Chain) -> None:
    """A trace begins."""
    traces = {chain.hears()[0] for _ in range(3)}
    assert len(traces) == 3


def test_traceparent_included_tracestate_missing(chain: Chain) -> None:
    """It goes on, in another span where this one may leave one."""
    trace, parent, state = chain.hears(b"traceparent: " + VALID)
    assert (trace, state) == (TRACE, None) and parent != PARENT


@pytest.mark.parametrize(
    "lines",
    [
        (b"traceparent: " + VALID, b"traceparent: " + VALID),
        (b"traceparent: " + VALID, b"TraceParent: 00-%b1-%b-01" % (TRACE[:-1], PARENT)),
        (b"trace-parent: " + VALID,),
        (b"trace.parent: " + VALID,),
        *[
            (b"traceparent: " + value,)
            for value in (
                VALID + b".",
                VALID + b"-what-the-future-will-be-like",
                b"cc" + VALID[2:] + b".what-the-future-will-be-like",
                b"ff" + VALID[2:],
                b".0" + VALID[2:],
                b"0." + VALID[2:],
                b"000" + VALID[2:],
                b"0000" + VALID[2:],
                b"0" + VALID[2:],
                b"00-%b-%b-01" % (b"0" * 32, PARENT),
                b"00-.%b-%b-01" % (TRACE[1:], PARENT),
                b"00-%b.-%b-01" % (TRACE[:-1], PARENT),
                b"00-%b3-%b-01" % (TRACE, PARENT),
                b"00-%b-%b-01" % (TRACE[:-1], PARENT),
                b"00-%b-%b-01" % (TRACE, b"0" * 16),
                b"00-%b-.%b-01" % (TRACE, PARENT[1:]),
                b"00-%b-%b.-01" % (TRACE, PARENT[:-1]),
                b"00-%b-%b7-01" % (TRACE, PARENT),
                b"00-%b-%b-01" % (TRACE, PARENT[:-1]),
                b"00-%b-%b-.0" % (TRACE, PARENT),
                b"00-%b-%b-0." % (TRACE, PARENT),
                b"00-%b-%b-001" % (TRACE, PARENT),
                b"00-%b-%b-1" % (TRACE, PARENT),
                b"00-%b-%b-01" % (TRACE.replace(b"0", b"A"), PARENT),
                b"00_%b-%b-01" % (TRACE, PARENT),
                b"",
                VALID + b", " + VALID,
            )
        ],
    ],
    ids=lambda lines: b" | ".join(lines).decode(),
)
def test_a_traceparent_that_is_none(chain: Chain, lines: tuple[bytes, ...]) -> None:
    """A trace begins, and nothing is told of the one that it may have been; nor of another's state."""
    trace, _, state = chain.hears(*lines, b"tracestate: foo=1")
    assert (trace == TRACE, state) == (False, None)


@pytest.mark.parametrize("name", [b"TraceParent", b"TrAcEpArEnT", b"TRACEPARENT"])
@pytest.mark.parametrize("space", [(b" ", b""), (b"\t", b""), (b"", b" "), (b"", b"\t"), (b"\t ", b" \t")])
def test_traceparent_header_name_valid_casing_and_ows_handling(
    chain: Chain, name: bytes, space: tuple[bytes, bytes]
) -> None:
    """However it is written."""
    assert chain.hears(b"%b:%b%b%b" % (name, space[0], VALID, space[1]))[0] == TRACE


@pytest.mark.parametrize("more", [b"", b"-what-the-future-will-be-like", b"-"])
def test_traceparent_version_0xcc(more: bytes) -> None:
    """Of a version to come what this one knows is read, and this one's is what is said."""
    with Playbook() as play:
        play.worker.spans.wanted = True
        play.put("one", trace={"share": 1})
        trace, parent, _ = Chain(play).hears(b"traceparent: cc" + VALID[2:] + more)
        assert trace == TRACE and parent != PARENT


def test_tracestate_included_traceparent_missing(chain: Chain) -> None:
    """It is of no trace."""
    assert [chain.hears(b"tracestate: " + value)[2] for value in (b"foo=1", b"foo=1,bar=2")] == [None, None]


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ((b"tracestate: foo=1,bar=2",), b"foo=1,bar=2"),
        ((b"TraceState: foo=1",), b"foo=1"),
        ((b"trace-state: foo=1",), None),
        ((b"trace.state: foo=1",), None),
        ((b"tracestate: foo=1", b"tracestate:"), b"foo=1"),
        ((b"tracestate:", b"tracestate: foo=1"), b"foo=1"),
        (
            (b"tracestate: foo=1,bar=2", b"tracestate: rojo=1,congo=2", b"tracestate: baz=3"),
            b"foo=1,bar=2,rojo=1,congo=2,baz=3",
        ),
        ((b"tracestate: foo=1 \t , \t bar=2, \t baz=3",), b"foo=1,bar=2,baz=3"),
        ((b"tracestate: foo=1,foo=1",), None),
        ((b"tracestate: foo=1,foo=2",), None),
        ((b"tracestate: foo=1", b"tracestate: foo=2"), None),
        ((b"tracestate: foo =1",), None),
        ((b"tracestate: FOO=1",), None),
        ((b"tracestate: foo.bar=1",), None),
        ((b"tracestate: foo@=1,bar=2",), None),
        ((b"tracestate: @foo=1,bar=2",), None),
        ((b"tracestate: foo@@bar=1,bar=2",), None),
        ((b"tracestate: foo@bar@baz=1,bar=2",), None),
        ((b"tracestate: foo=bar=baz",), None),
        ((b"tracestate: foo=,bar=3",), None),
        ((b"tracestate: foo=\xe4",), None),
        ((b"tracestate: foo=1", b"tracestate: " + b"z" * 256 + b"=1"), b"foo=1," + b"z" * 256 + b"=1"),
        ((b"tracestate: foo=1", b"tracestate: " + b"z" * 257 + b"=1"), None),
        (
            (b"tracestate: foo=1", b"tracestate: " + b"t" * 241 + b"@" + b"v" * 14 + b"=1"),
            b"foo=1," + b"t" * 241 + b"@" + b"v" * 14 + b"=1",
        ),
        ((b"tracestate: foo=1", b"tracestate: " + b"t" * 242 + b"@v=1"), None),
        ((b"tracestate: foo=1", b"tracestate: t@" + b"v" * 15 + b"=1"), None),
        ((b"tracestate: foo=" + b"v" * 256,), b"foo=" + b"v" * 256),
        ((b"tracestate: foo=" + b"v" * 257,), None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tracestate(chain: Chain, lines: tuple[bytes, ...], state: bytes | None) -> None:
    """In its order, several fields as one; or dropped whole, and the trace goes on."""
    trace, _, found = chain.hears(b"traceparent: " + KEPT, *lines)
    assert trace == TRACE
    if found is not None and state is not None:  # what goes on as it is, goes on as it was written
        found = b",".join(member.strip(b" \t") for member in found.split(b","))
    assert found == state


def test_tracestate_member_count_limit(chain: Chain) -> None:
    """32, and not one more, over all fields."""
    members = [b"bar%02d=%02d" % (n, n) for n in range(1, MAX_MEMBERS + 2)]
    for count, told in ((MAX_MEMBERS, b",".join(members[:-1])), (MAX_MEMBERS + 1, None)):
        fields = [b"tracestate: " + b",".join(members[at : min(at + 10, count)]) for at in range(0, count, 10)]
        assert chain.hears(b"traceparent: " + KEPT, *fields)[2] == told


def test_tracestate_all_allowed_characters(chain: Chain) -> None:
    """Of keys, with a vendor and without, and of values."""
    key = bytes(range(0x61, 0x7B)) + b"0123456789_-*/"
    value = bytes([*range(0x20, 0x2C), *range(0x2D, 0x3D), *range(0x3E, 0x7F)])
    for member in (key + b"=" + value, key + b"@a-z0-9_-*/=" + value):
        assert chain.hears(b"traceparent: " + KEPT, b"tracestate: " + member)[2] == member


def test_multiple_requests_with_valid_traceparent() -> None:
    """Each is another span of the same trace."""
    with Playbook() as play:
        play.worker.spans.wanted = True
        play.put("one", trace={"share": 1})
        chain = Chain(play)
        found = [chain.hears(b"traceparent: " + VALID)[:2] for _ in range(3)]
        assert {trace for trace, _ in found} == {TRACE} and len({parent for _, parent in found}) == 3


def flags(chain: Chain, *lines: bytes) -> bytes:
    return re.findall(rb"traceparent: .*-(..)\r\n", chain.heard(*lines))[0]


@pytest.mark.parametrize(
    ("share", "parent", "said", "told"),
    [
        (1, "follow", b"", b"03"),
        (0, "follow", b"", b"02"),
        (0, "follow", b"01", b"01"),
        (1, "follow", b"00", b"00"),
        (1, "follow", b"02", b"02"),
        (0, "follow", b"03", b"03"),
        (0, "follow", b"ff", b"03"),
        (0, "ignore", b"01", b"00"),
        (1, "ignore", b"00", b"01"),
        (1, "ignore", b"fe", b"03"),
    ],
)
@pytest.mark.parametrize("errors", [True, False])
def test_flags(share: float, parent: str, said: bytes, told: bytes, *, errors: bool) -> None:
    """Whether it is sampled, and whether its id is random (level 2); what nobody knows yet is not passed on."""
    with Playbook() as play:
        play.worker.spans.wanted = True
        play.put("one", trace={"share": share, "parent": parent, "errors": errors})
        lines = (b"traceparent: " + VALID[:-2] + said,) if said else ()
        assert flags(Chain(play), *lines) == told


def test_without_a_document_nothing_is_touched() -> None:
    """Byte by byte, in its place; what is wrong with it, too."""
    sent = (b"A: 1", b"TraceParent:  x", b"tracestate: A", b"traceparent: y", b"Baggage: k=v", b"Z: 2")
    for document in ({}, {"trace": {"enabled": False}}):
        with Playbook() as play:
            play.worker.spans.wanted = True
            play.put("one", **document)
            head = Chain(play).heard(*sent)
            assert b"A: 1\r\nTraceParent: x\r\ntracestate: A\r\ntraceparent: y\r\nBaggage: k=v\r\nZ: 2\r\n" in head
            assert len(play.worker.spans) == 0


def test_what_is_not_sampled_goes_on_as_it_came() -> None:
    """Where this hop will keep nothing of it."""
    with Playbook() as play:
        play.worker.spans.wanted = True
        play.put("one", trace={"share": 0, "errors": False})
        sent = b"TraceParent: %b\r\nTraceState: a=1,b=2\r\nX: y\r\n" % KEPT
        assert sent in Chain(play).heard(*sent.split(b"\r\n")[:-1])


def test_baggage_is_passed_on(chain: Chain) -> None:
    """As it is, with whatever is in it."""
    baggage = b"baggage: userId=am%C3%A9lie;p, serverNode=DF%2028 , isProduction=false"
    assert baggage + b"\r\n" in chain.heard(b"traceparent: " + VALID, baggage)


def test_a_route_has_the_last_word(chain: Chain) -> None:
    """Of what is told of a trace."""
    for edits, told in (({"remove": ["traceparent"]}, []), ({"set": {"Traceparent": "mine"}}, [b"mine"])):
        rules = [{"headers": {"request": edits}}]
        chain.play.put("one", trace={"share": 1}, route={"rules": rules})
        chain.up = None
        head = chain.heard(b"traceparent: " + VALID)
        assert b"\r\nhost: " in head.lower()
        assert re.findall(rb"\r\ntraceparent: (.*?)\r\n", head, re.IGNORECASE) == told


KEYS = st.from_regex(rb"[a-z0-9][a-z0-9_*/-]{0,8}(@[a-z][a-z0-9]{0,3})?", fullmatch=True)
VALUES = st.from_regex(rb"[!-+.-<>-~]{1,8}", fullmatch=True)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=MAX_MEMBERS, unique_by=lambda each: each[0]), st.data())
def test_whatever_the_fields_are_it_is_one_list(members: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    """Cut anywhere between its members, with any space around them."""
    said = [key + b"=" + value for key, value in members]
    space = st.sampled_from([b"", b" ", b"\t ", b" , "])
    values: list[bytes] = [b""]
    for member in said:
        piece = data.draw(space) + member + data.draw(space)
        if data.draw(st.booleans()):
            values.append(piece)
        else:
            values[-1] += b"," + piece
    assert list_of(values) == b",".join(said)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_whatever_it_is_it_is_valid_or_dropped(values: list[bytes]) -> None:
    """And what was read once is read again as the same."""
    found = list_of(values)
    assert list_of([found]) == found and found.count(b",") < MAX_MEMBERS


@given(st.binary(max_size=70) | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_a_traceparent_is_what_the_grammar_says(value: bytes) -> None:
    """By another reader: a regular expression."""
    grammar = re.compile(rb"(?!ff)(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}|"
                         rb"(?!00)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?)",
                         re.DOTALL)  # fmt: skip
    assert is_traceparent(value) == (grammar.fullmatch(value) is not None)


def test_nothing_to_read() -> None:
    """Most requests belong to no trace."""
    assert read(parse_request(b"GET / HTTP/1.1\r\nHost: a", HeadRules())) is None
