"""Edges of golden signals are added up by who they are, and histograms only by the same bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.control.workers import edges, ledger
from agent.control.workers.convergence import MOST, Convergence
from agent.control.workers.ledger import Ledger


def edge(caller: str, number: int, *, first: bool = True, size: int = 3) -> list[Any]:
    return [first, caller, "", "v1", "", [0, 0, number, 0, 0, 0], float(number), [number] + [0] * (size - 1)]


def total(found: list[list[Any]]) -> tuple[int, float, int]:
    return sum(sum(each[5]) for each in found), sum(each[6] for each in found), sum(sum(each[7]) for each in found)


_EDGES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=12)


@given(_EDGES, _EDGES, st.integers(1, 5))
def test_nothing_is_lost_or_twice(
    one: list[tuple[int, int, bool]], other: list[tuple[int, int, bool]], most: int
) -> None:
    """Whatever is added to whatever, and folded; what was handed in stays as it was."""
    ours = edges.plus([], [edge(f"c{n}", number, first=first) for n, number, first in one])
    theirs = edges.plus([], [edge(f"c{n}", number, first=first) for n, number, first in other])
    before = [[*each[:5], [*each[5]], each[6], [*each[7]]] for each in ours]
    both = edges.plus(ours, theirs)
    assert ours == before
    wanted = tuple(a + b for a, b in zip(total(ours), total(theirs), strict=True))
    assert total(both) == wanted
    folded = edges.folded(both, most)
    assert total(folded) == wanted and len(folded) <= most + 2 and folded[:most] == both[:most]
    assert len({tuple(each[:5]) for each in folded}) == len(folded)


def test_a_worker_that_knows_fewer_classes_of_status() -> None:
    """Its requests are added to those of one that knows more, whichever comes first."""
    one, more = edge("c", 4, size=3), edge("c", 2, size=3)
    more[5] = [*more[5], 7]
    for both in ([one], [more]), ([more], [one]):
        assert [each[5] for each in edges.plus(*both)] == [[0, 0, 6, 0, 0, 0, 7]]


def test_a_worker_of_the_version_before_and_one_of_now() -> None:
    """Coarser buckets go where their upper bound is; what knew no edges is one; the sum of all is what it was."""
    old = {
        "services": {"pets": {"requests": {"2xx": 2, "gone": 1}, "duration_buckets": [1, 1, 1], "duration_sum_s": 9.0}}
    }
    new = {"services": {"pets": {"edges": [edge("shop", 4, size=5)], "duration_buckets": [4, 0, 0, 0, 0]}}}
    old["duration_bounds_s"], new["duration_bounds_s"] = [0.01, 1.0], [0.01, 0.1, 1.0, 10.0]  # type: ignore[assignment]
    kept = Ledger()
    kept.hear(1, old)
    kept.hear(2, new)
    bounds, told = edges.aligned(kept.figures())
    assert bounds == [0.01, 0.1, 1.0, 10.0]
    assert told[0]["services"]["pets"]["duration_buckets"] == [1, 0, 1, 0, 1]
    assert told[0]["services"]["pets"]["edges"] == [[True, "", "", "", "", [1, 0, 2, 0, 0, 0, 0], 9.0, [1, 0, 1, 0, 1]]]
    kept.end(1)
    kept.end(2)
    (gone,) = kept.figures()
    assert gone["services"]["pets"]["duration_buckets"] == [5, 0, 1, 0, 1]
    assert total(gone["services"]["pets"]["edges"]) == (7, 13.0, 7)


def test_edges_of_workers_that_are_gone_are_bounded() -> None:
    """However many workers each invent their own."""
    kept = Ledger()
    for pid in range(9):
        told = [edge(f"{pid}-{number}", 1) for number in range(1_000)]
        service = {"edges": told, "duration_buckets": [1_000, 0, 0]}
        kept.hear(pid, {"services": {"pets": service}, "duration_bounds_s": [0.1, 1.0]})
        kept.end(pid)
    (gone,) = kept.figures()
    found = gone["services"]["pets"]["edges"]
    assert len(found) == ledger.MAX_EDGES + 1 and total(found)[0] == 9_000


def test_convergence() -> None:
    """From when a revision was heard of to when all workers run it, or a later one; none is counted twice."""
    made = Convergence()
    for revision, at_s in ((5, 1.0), (6, 1.5), (6, 1.6), (9, 2.0)):
        made.hear(revision, at_s)
    made.run(4, 2.0)
    assert sum(made.buckets) == 0
    made.run(7, 2.0)
    made.run(7, 3.0)
    assert sum(made.buckets) == 2 and made.sum_s == 1.5
    for revision in range(10, 3 * MOST):
        made.hear(revision, 3.0)
    made.run(3 * MOST, 3.0)
    assert sum(made.buckets) == 2 + MOST
