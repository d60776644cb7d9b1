"""What waits for control has a bound in rows and in bytes, and what had no room is counted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.audit.draft import Said
from agent.carried import Span
from agent.proxy.report import audit, ring, spans
from agent.proxy.report.access import Recorder
from agent.proxy.report.audit import AuditRing
from agent.proxy.report.following import WAITING_BYTES
from agent.proxy.report.ring import MOST_BYTES, PORTION_BYTES, UNMEASURED, Ring
from agent.proxy.report.spans import SpanRing
from agent.requests.filter import Filter

HEAD = 60_000


def row(target: bytes = b"/", id: bytes = b"1", host: bytes = b"pets") -> tuple[Any, ...]:
    before = (1.0, False, "", "pets", "one", b"GET", host, target, 200, 0.1, 0, 0, 1, id, "", "127.0.0.1")
    return (*before, "HTTP/1.1", b"", "", b"", -1.0, 0.0, 0.0, 0.0, None, None, None, None)


@given(st.lists(st.one_of(st.integers(0, 400), st.none()), max_size=60))
def test_what_is_measured_is_what_waits(steps: list[int | None]) -> None:
    """Whatever is added (its size) and taken (None) in between: no row twice, none out of order, and no more than had a
    place."""
    waiting = Ring(UNMEASURED * 2, len, 20_000)
    kept: list[bytes] = []
    for number, step in enumerate(steps):
        if step is None:
            taken = waiting.take(7, 600)
            assert taken == kept[: len(taken)] and len(taken) <= 7
            assert len(taken) <= 1 or sum(map(len, taken)) <= 600
            assert taken or not kept
            del kept[: len(taken)]
        else:
            for _ in range(50):
                text = bytes([number % 256]) * step
                if waiting.add(text):
                    kept.append(text)
            waiting.measure()
        assert len(waiting) == len(kept) <= UNMEASURED * 2
        assert sum(map(len, kept)) < 20_000 + 50 * 400 or len(kept) <= UNMEASURED + 50


def test_there_is_room_again_once_some_are_taken() -> None:
    waiting = Ring(10_000, len, 100 * UNMEASURED)
    while waiting.add(b"x" * 100) and len(waiting) < 9000:
        if len(waiting) % 10 == 0:
            waiting.measure()
    assert UNMEASURED <= len(waiting) <= UNMEASURED + 10
    assert len(waiting.take(100)) == 100
    waiting.measure()
    assert waiting.add(b"x" * 100)
    while waiting.take(100):
        pass
    waiting.measure()
    assert sum(waiting.add(b"x") for _ in range(20_000)) == 10_000


def many(add: Callable[[int], None], measure: Callable[[], None], count: int) -> None:
    for number in range(count):
        add(number)
        if number % 50 == 49:
            measure()


@pytest.mark.parametrize("place", ["target", "id", "host"])
def test_records_of_long_heads(place: str) -> None:
    """Wherever a caller puts it. Batches have a bound too: control takes no frame that is larger."""
    recorder = Recorder()
    recorder.keep(True)
    long = row(**{place: b"/" + b"x" * HEAD})
    many(lambda number: recorder.record(long, 0.0), recorder.measure, 2000)
    told = 0
    while records := recorder.take(200):
        told += records.count
        assert len(records.lines) < PORTION_BYTES + records.count * 1000
    assert told + recorder.lost == 2000 and MOST_BYTES // HEAD - 50 <= told <= MOST_BYTES // HEAD + 50
    recorder.measure()
    recorder.record(row(), 0.0)
    assert recorder.take(200) is not None


def test_who_follows_long_heads() -> None:
    """Fewer of them, and the number of the others behind."""
    recorder = Recorder()
    recorder.follow({"7": Filter()})
    many(lambda number: recorder.record(row(b"/" + b"x" * 20_000), 0.0), recorder.measure, 900)
    told = lost = 0
    while found := recorder.take_followed(50):
        for each in found:
            told, lost = told + each.count, lost + each.lost
            assert len(each.lines) < 1024 * 1024, "an agent takes no batch that is larger"
    assert told + lost == 900 and 0 < told <= max(UNMEASURED, WAITING_BYTES // 20_000) + 50


def test_spans_and_audit_records_of_long_heads() -> None:
    made = SpanRing(random.Random(1))
    span = Span(1.0, 1.0, "pets", "GET", "client", "1" * 32, "2" * 16, attributes={"url.path": "/" + "x" * HEAD})
    many(lambda number: made.add(span), made.measure, 2000)
    told = 0
    while found := made.take(200):
        told += found.count
        assert found.count <= PORTION_BYTES // HEAD + 1
    assert told + made.lost == 2000 and told <= MOST_BYTES // HEAD + 50

    records = AuditRing()
    said = Said("request.denied", 1.0, {"path": "/" + "x" * HEAD, "revision": 1}, {"header.x": "y" * HEAD})
    many(lambda number: records.add(said), records.measure, 1000)
    told = lost = 0
    while audited := records.take(200):
        told, lost = told + audited.count, lost + sum(audited.lost.values())
    assert told + lost == 1000 and told <= max(UNMEASURED, MOST_BYTES // (2 * HEAD)) + 50


def test_short_rows_have_their_places_as_before() -> None:
    """What is measured takes none of them."""
    for made, most in ((SpanRing(random.Random(1)), spans.RING), (AuditRing(), audit.RING)):
        assert most * ring.UNMEASURED < MOST_BYTES
        for _ in range(most + 3):
            made.add(SHORT[type(made)])  # type: ignore[arg-type]
        made.measure()
        assert len(made) >= most
    first = SpanRing(random.Random(1))
    first.add(SHORT[SpanRing])  # type: ignore[arg-type]
    frame = first.take(1)
    assert frame is not None and json.loads(frame.lines)["name"] == "GET"


SHORT = {
    SpanRing: Span(1.0, 1.0, "pets", "GET", "client", "1" * 32, "2" * 16),
    AuditRing: Said("request.denied", 1.0, {"path": "/"}),
}
