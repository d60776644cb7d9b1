"""Which traces are sampled: by share, by rule, by rate; and which requests leave a span all the same."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kind import Scope
from policies.kinds.trace.decide import RANDOM_DIGITS, Begun, Compiled, compile, drawn
from policies.kinds.trace.document import Trace
from policies.request import Request


def compiled(scope: Scope = Scope(), **document: Any) -> Compiled:  # noqa: B008
    found = parse("trace", "pets.production", msgspec.json.encode(document))
    assert isinstance(found, Trace), found
    made = compile(found, scope)
    assert made is not None
    return made


ids = st.integers(0, 2**56 - 1).map(lambda number: b"%014x" % number)


@given(ids, st.floats(0, 1), st.floats(0, 1))
def test_shares_contain_each_other(digits: bytes, one: float, other: float) -> None:
    """Who is in a small share is in every larger one: whatever services say, a trace has no holes by chance."""
    less, more = sorted((one, other))
    assert not drawn(digits, compiled(share=less).least(None)) or drawn(digits, compiled(share=more).least(None))
    assert drawn(digits, compiled(share=1).least(None)) and not drawn(digits, compiled(share=0).least(None))


@given(ids, st.floats(0, 1))
def test_the_digits_are_a_number(digits: bytes, share: float) -> None:
    """Of 56 bits, as other systems draw; in the share is who is at least so large."""
    assert len(digits) == RANDOM_DIGITS
    assert drawn(digits, compiled(share=share).least(None)) == (int(digits, 16) >= 2**56 - round(share * 2**56))


def test_a_share_is_one_of_so_many() -> None:
    """Of ids that are spread evenly, just so many."""
    least = compiled(share=0.25).least(None)
    assert sum(drawn(b"%03x00000000000" % (step << 2), least) for step in range(1024)) == 256


def test_the_first_rule_that_matches_counts() -> None:
    """Others have the document's share."""
    found = compiled(
        share=0,
        rules=[
            {"match": {"path": {"exact": "/health"}}, "share": 0},
            {"match": {"path": {"prefix": "/checkout"}}, "share": 1},
            {"match": {}, "share": 0.5},
        ],
    )
    assert found.looks and not compiled().looks
    shares = {path: found.least(Request(target=path)) for path in ("/health", "/checkout/7", "/pets")}
    assert shares == {"/health": b"g", "/checkout/7": b"0" * 14, "/pets": b"8" + b"0" * 13}


@given(
    st.floats(0.1, 50),
    st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=80),
)
def test_no_more_are_drawn_than_the_rate(rate: float, asks: list[tuple[float, bool]]) -> None:
    """In any time no more than one second's beyond it; to look takes nothing; a clock that jumps back gives none."""
    begun, now, taken = Begun(), 100.0, 0
    for passed, looks in asks:
        now += passed
        could = begun.has_room(rate, now)
        if looks:
            assert begun.has_room(rate, now) == could
        else:
            assert begun.take(rate, now) == could
            taken += could
    assert taken <= max(rate, 1) + rate * (now - 100.0) + 1e-6
    while begun.take(rate, now):
        pass
    assert not begun.has_room(rate, now - 50)


def test_a_worker_has_its_part_of_the_rate() -> None:
    """And a document that is switched off is none."""
    found = compiled(Scope("pets.production", 0.25), rate=100, follow_rate=10)
    assert (found.rate, found.follow_rate) == (25, 2.5)
    assert (compiled().rate, compiled().follow_rate) == (0, 0)
    assert compile(Trace(enabled=False)) is None


def test_what_leaves_a_span_all_the_same() -> None:
    """What fails, unless it is told not to; and what is slow, if it says so."""
    usual = compiled()
    assert (usual.keeps(True, 0.0), usual.keeps(False, 1e6), usual.late) == ("error", "", True)
    slow = compiled(errors=False, slower="500ms")
    assert [slow.keeps(True, 0.5), slow.keeps(True, 0.6)] == ["", "slow"] and slow.late
    assert not compiled(errors=False).late


def test_names_of_spans() -> None:
    """The first template that a path matches."""
    found = compiled(templates=["/users/{id}", "/users/{id}/pets"])
    assert [found.template(path) for path in ("/users/7", "/users/7/pets", "/x")] == [
        "/users/{id}",
        "/users/{id}/pets",
        "",
    ]
