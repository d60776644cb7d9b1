"""Heads, size lines, trailers that drip: each byte costs the same, wherever the cuts are; and time is for the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import build
from agent.frames import Limits
from agent.proxy.engine.reactor import HIGH_WATER_BYTES
from agent.proxy.http1 import framing, gathering, head
from agent.proxy.http1.framing import ChunkedDecoder
from agent.proxy.http1.gathering import Gathered
from agent.proxy.http1.server import PIPELINE_BYTES
from agent.proxy.messages.head import BadHead, HeadRules
from tests.support.conversation import GET, OK, RELAYED, talk
from tests.support.playbook import Playbook

interpreted = pytest.mark.skipif(
    build.kind() == build.COMPILED, reason="what compiled code reads cannot be watched; interpreted, it is"
)


class Watched(bytearray):
    """Counts what is looked at, and what is copied."""

    work = 0

    def find(self, part: Any, start: Any = 0, *end: Any) -> int:
        found = super().find(part, start, *end)
        Watched.work += (found if found >= 0 else len(self)) - start
        return found

    def __getitem__(self, where: Any) -> Any:
        found = Watched(super().__getitem__(where))
        Watched.work += len(found)
        return found


class WatchedPattern:
    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern

    def search(self, text: Any, start: int) -> Any:
        Watched.work += len(text) - start
        return self._pattern.search(text, start)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Bytes looked at or copied since it was asked last."""
    monkeypatch.setattr(gathering, "bytearray", Watched, raising=False)
    monkeypatch.setattr(framing, "bytearray", Watched, raising=False)
    monkeypatch.setattr(head, "_BARE_LF", WatchedPattern(head._BARE_LF))
    Watched.work = 0

    def since() -> int:
        done, Watched.work = Watched.work, 0
        return done

    yield since


def request_head(size: int) -> bytes:
    return b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Filler: " + b"a" * size + b"\r\n\r\n"


def answer_head(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Filler: " + b"a" * size + b"\r\n\r\nok"


def drip_request(data: bytes) -> None:
    with Playbook() as play:
        play.put("one")
        client = play.client()
        for at in range(len(data)):
            assert client >> data[at : at + 1]
        assert play.upstream("one") << b"GET /a HTTP/1.1..."


def drip_early_request(data: bytes) -> None:
    """Behind another one that is not answered yet."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        for at in range(len(data)):
            assert client >> data[at : at + 1]
        assert up >> OK
        assert up << b"GET /a HTTP/1.1..."


def drip_answer(data: bytes, *, chunked: bool = False) -> None:
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        for at in range(len(data)):
            assert up >> data[at : at + 1]
        assert client << (b"HTTP/1.1 200 OK...0\r\n...\r\n" if chunked else b"HTTP/1.1 ...ok")
        assert not up.closed


def drip_interim_answer(size: int) -> None:
    drip_answer(answer_head(size).replace(b"200 OK\r\nContent-Length: 2", b"103 Hint")[:-2] + OK)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@interpreted
@pytest.mark.parametrize(
    "drip",
    [
        pytest.param(lambda n: drip_request(request_head(n)), id="the head of a request"),
        pytest.param(lambda n: drip_request(b"\r\n" + request_head(n)), id="behind an empty line"),
        pytest.param(lambda n: drip_early_request(request_head(n)), id="behind another request"),
        pytest.param(lambda n: drip_answer(answer_head(n)), id="the head of an answer"),
        pytest.param(drip_interim_answer, id="the head of an interim answer"),
        pytest.param(
            lambda n: drip_answer(CHUNKED + b"2;" + b"a" * n + b"\r\nok\r\n0\r\n\r\n", chunked=True), id="a size line"
        ),
        pytest.param(
            lambda n: drip_answer(CHUNKED + b"0\r\nX-A: " + b"a" * n + b"\r\n\r\n", chunked=True), id="a trailer"
        ),
    ],
)
def test_a_drip_costs_what_its_bytes_cost(drip: Callable[[int], None], work: Callable[[], int]) -> None:
    """Twice the bytes are twice the work, and each is looked at a few times."""
    drip(1500)
    once = work()
    drip(3000)
    assert 3000 <= work() < min(2.5 * once, 20 * 3400)


@interpreted
@pytest.mark.parametrize("side", ["requests", "interim answers"])
def test_many_heads_in_one_piece_cost_what_their_bytes_cost(side: str, work: Callable[[], int]) -> None:
    """What stands behind a head is not copied for it."""
    one = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" if side == "requests" else b"HTTP/1.1 103 Early Hints\r\n\r\n"

    def read(number: int) -> int:
        heads = Gathered(HeadRules())
        heads.feed(one[:5])
        heads.feed(one[5:] + one * (number - 1))
        found = 0
        while heads.head() is not None:
            found += 1
        assert found == number
        return work()

    read(500)
    once = read(500)
    assert len(one) * 1000 <= read(1000) < min(2.5 * once, 4 * len(one) * 1000)


PIECES = st.lists(st.integers(1, 9), max_size=80)
HEADS = st.lists(
    st.sampled_from([b"GET / HTTP/1.1\r\nHost: a", b"", b"x", b"\r\nGET / HTTP/1.1", b"a\nb", b"a\0b", b"\r", b"a\r"]),
    min_size=1,
    max_size=5,
)


def gathered(pieces: list[bytes], *, skip: bool) -> list[bytes | str]:
    heads = Gathered(HeadRules())
    found: list[bytes | str] = []
    try:
        for piece in pieces:
            heads.feed(piece)
            while len(heads):
                if skip:
                    heads.skip_empty_line()
                one = heads.head()
                if one is None:
                    break
                found.append(one)
        found.append(heads.take())
    except BadHead as bad:
        found.append(bad.reason)
    return found


@given(HEADS, PIECES, st.booleans())
def test_the_cuts_change_nothing(heads: list[bytes], cuts: list[int], skip: bool) -> None:
    """In the middle of a CRLFCRLF, and of an empty line, too: heads are the same, and so is what follows."""
    data = b"\r\n\r\n".join(heads) + b"\r\n\r\nrest"
    pieces, left = [], data
    while left:
        size = cuts.pop() if cuts else len(left)
        pieces.append(left[:size])
        left = left[size:]
    whole, cut = gathered([data], skip=skip), gathered(pieces, skip=skip)
    whole_heads = [each for each in whole if isinstance(each, bytes)]
    # What is wrong with an incomplete head is seen as soon as its bytes are there; whole, by who parses it.
    if all(b"\0" not in each and b"\n" not in each.replace(b"\r\n", b"") for each in heads):
        assert cut == whole
    else:
        assert [each for each in cut if isinstance(each, bytes)] == whole_heads[: len(cut) - 1] or cut == whole


@pytest.mark.parametrize("cut", range(1, 5))
def test_the_end_of_a_head_in_two_pieces(cut: int) -> None:
    """Of a request, of an answer, of trailers."""
    with Playbook() as play:
        play.put("one")
        client = play.client()
        at = len(GET) - cut
        assert client >> GET[:at] and play.idle
        assert client >> GET[at:] + GET[:3]
        up = play.upstream("one")
        assert up >> OK[: -2 - cut]
        assert client << b""
        assert up >> OK[-2 - cut :]
        assert client << RELAYED
        assert client >> GET[3:]
        assert up << b"...GET /a..."
        data = CHUNKED + b"0\r\nX-A: 1\r\n\r\n"
        assert up >> data[:-cut]
        assert up >> data[-cut:]
        assert client << b"...0\r\nX-A: 1\r\n\r\n"


def test_a_size_line_is_read_from_any_cut() -> None:
    """And what is wrong with it is seen at the byte that is wrong."""
    decoder = ChunkedDecoder()
    assert b"".join(decoder.feed(bytes([each])) for each in b"3;x=y\r\nabc\r\n0\r\n\r\n") == b"abc" and decoder.done
    for broken in (b"3;x\n", b"3\r\nabcd", b"3\r\nabc\n", b"0\r\nx: 1\n"):
        decoder = ChunkedDecoder()
        for each in broken[:-1]:
            decoder.feed(bytes([each]))
        with pytest.raises(BadHead):
            decoder.feed(broken[-1:])


@pytest.mark.parametrize("field", [b"Host: a", b"Content-Length: 1", b"X-Shoal-Caller: a", b"Connection: a"])
def test_trailers_that_are_dropped_count(field: bytes) -> None:
    """They have an end, too."""
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\n")
    with pytest.raises(BadHead, match="too many trailer fields"):
        for _ in range(5000):
            decoder.feed(field + b"\r\n")
    assert decoder.trailers == []


# Time.


@pytest.mark.parametrize("first", [True, False], ids=["the first request", "a later one"])
@pytest.mark.parametrize("piece", [b"GET /a", b"\r\nGET /a"], ids=["of a head", "behind an empty line"])
def test_a_head_that_drips_has_one_time(first: bool, piece: bytes) -> None:
    """It runs from its first byte, however often another one comes."""
    with Playbook() as play:
        play.worker.limits = Limits(head_s=10.0, idle_s=300.0)
        play.put("one")
        if first:
            client = play.client()
        else:
            client, up = talk(play)
            assert up >> OK
            assert client << RELAYED
            play.passes(100.0)
        for at in range(len(piece)):
            assert client >> piece[at : at + 1]
            play.passes(1.0)
        for _ in range(len(piece), 9):
            assert client >> b"a"
            play.passes(1.0)
        assert not client.finished
        play.passes(1.5)
        assert client << b"HTTP/1.1 408 ...no whole request head within 10 s..."


def test_empty_lines_are_no_way_to_stay() -> None:
    """One is skipped before a request; it begins the time for a head, and a third is a broken one."""
    with Playbook() as play:
        play.worker.limits = Limits(head_s=10.0, idle_s=300.0)
        play.put("one")
        client, up = talk(play)
        assert up >> OK
        assert client << RELAYED
        assert client >> b"\r\n"
        play.passes(11.0)
        assert client.closed
        other = play.client()
        assert other >> b"\r\n" >> b"\r\n" >> b"\r\n"
        assert other << b"HTTP/1.1 400 ..."


def test_requests_that_come_early_wait_within_a_bound() -> None:
    """Each answer lets in no more than was taken, however small the requests are."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        connection = play.connection(client)
        many = GET * (PIPELINE_BYTES // len(GET) + 1)
        most = 0
        for _ in range(20):
            if connection._events & 1:
                assert client >> many
            assert up >> OK
            most = max(most, len(connection._early))
        assert most <= 2 * len(many)


def test_a_body_behind_too_much_that_came_early_is_read() -> None:
    """What was not read any more because of it is."""
    with Playbook() as play:
        play.put("one")
        client, up = talk(play)
        post = GET[:-2].replace(b"GET", b"POST") + b"Content-Length: 100000\r\n\r\n"
        assert client >> post + b"a" * 70_000
        assert not play.connection(client)._events & 1
        assert up >> OK
        assert play.connection(client)._events & 1
        assert client >> b"a" * 30_000
        assert up << b"...POST /a HTTP/1.1..." + b"a" * 100
        assert up >> OK
        assert client << RELAYED + RELAYED


@pytest.mark.parametrize("answered_by", ["an instance", "the agent"])
def test_answers_that_nobody_takes_are_bounded(answered_by: str) -> None:
    """Who sends requests and reads no answers has the next ones wait; when it reads, all are answered."""
    with Playbook() as play:
        play.put("one", retry={"attempts": 1})
        client = play.client()
        connection = play.connection(client)
        client.takes(0)
        large = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"a" * 50_000
        if answered_by == "the agent":
            for _ in range(200):
                if connection.reads:
                    assert client >> b"GET /a HTTP/1.1\r\nHost: nobody.nowhere\r\n\r\n" * 100
        else:
            assert client >> GET * 100
            up = play.upstream("one")
            for _ in range(100):
                if connection.exchange is not None:
                    assert up >> large
        assert connection._out is not None and len(connection._out) < 2 * HIGH_WATER_BYTES
        assert connection.exchange is None and not connection.reads and len(connection._early)
        client.takes(None)
        if answered_by == "an instance":
            while connection.exchange is not None:
                assert up >> large
            assert client.heard.count(b"HTTP/1.1 200 OK") == 100
        assert connection.reads and len(connection._early) == 0
