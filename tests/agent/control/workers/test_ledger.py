"""What was counted never goes back, whatever becomes of those who counted it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.workers import ledger
from agent.control.workers.ledger import Ledger


def figures(requests: int = 1, active: int = 0, **services: int) -> dict[str, Any]:
    """Of a worker: requests of `pets`, and of further services."""
    told = {"pets": requests, **services} if requests else services
    return {
        "services": {
            name: {
                "requests": {"2xx": number},
                "duration_buckets": [number, 0],
                "duration_sum_s": number / 2,
                "active": active,
                "breaker": {"open": 1},
                "ejected": {"a": 1},
                "refused": {"shed": number} if number % 2 else {},
            }
            for name, number in told.items()
        },
        "connections": {"open": active, "accepted": requests},
        "duration_bounds_s": [1.0],
        "loop_late_worst_s": float(requests),
        "revision": 7,
    }


def sums(kept: Ledger, name: str = "pets") -> tuple[int, int, list[int], float, int]:
    """Requests, those in flight, buckets and their sum, and refusals of a service."""
    found = [told["services"][name] for told in kept.figures() if name in told["services"]]
    return (
        sum(one["requests"]["2xx"] for one in found),
        sum(one["active"] for one in found),
        [sum(column) for column in zip(*(one["duration_buckets"] for one in found), strict=True)],
        sum(one["duration_sum_s"] for one in found),
        sum(one["refused"].get("shed", 0) for one in found),
    )


def test_a_worker_that_is_killed() -> None:
    """Everything of its last word stays, histograms too; its successor adds to it; figures of the moment are gone."""
    kept = Ledger()
    kept.hear(10, figures(5, active=2))
    assert sums(kept) == (5, 2, [5, 0], 2.5, 5)
    kept.end(10)
    assert sums(kept) == (5, 0, [5, 0], 2.5, 5)
    kept.hear(11, figures(3, active=1))
    assert sums(kept) == (8, 1, [8, 0], 4.0, 8)


def test_a_worker_that_does_not_answer_counts_as_it_did() -> None:
    kept = Ledger()
    kept.hear(10, figures(5))
    kept.hear(11, figures(5))
    kept.hear(11, figures(6))
    assert sums(kept)[0] == 11


def test_last_words_are_counted_once() -> None:
    """A worker that says how it ends has not ended twice, nor does what is heard late of it count."""
    kept = Ledger()
    kept.hear(10, figures(5))
    kept.hear_last(10, figures(7))
    kept.hear(10, figures(6))
    kept.end(10)
    kept.end(10)
    assert sums(kept)[0] == 7
    kept.hear(10, figures(1))  # another process with the same number
    assert sums(kept)[0] == 8


def test_a_service_that_a_worker_no_longer_knows() -> None:
    """It left the mesh and came back: the worker counts from nothing, the sum does not."""
    kept = Ledger()
    kept.hear(10, figures(1, toys=5))
    kept.hear(11, figures(1, toys=2))
    kept.hear(10, figures(1))
    assert sums(kept, "toys")[0] == 7
    kept.hear(10, figures(1, toys=1))
    assert sums(kept, "toys")[0] == 8


def test_the_process_that_is_executed_next_goes_on() -> None:
    """With workers that live, those that died meanwhile, and those that are gone; what a version before saved, too."""
    kept, later, oldest = Ledger(), Ledger(), Ledger()
    kept.hear(10, figures(1))
    kept.hear(11, figures(2))
    kept.end(11)
    later.load(kept.saved())
    assert sums(later) == sums(kept)
    later.end(10)
    assert sums(later)[0] == 3
    oldest.load(ledger.msgspec.msgpack.encode(figures(4)))
    assert sums(oldest)[0] == 4
    Ledger().load(b"")


def test_services_that_are_gone_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first are forgotten, whole; those that live are not."""
    monkeypatch.setattr(ledger, "MAX_GONE", 2)
    kept = Ledger()
    for number in range(5):
        kept.hear(10, figures(1, **{f"s{number}": 1}))
    kept.hear(10, figures(1))
    assert list(kept.figures()[-1]["services"]) == ["s3", "s4"]
    assert sums(kept)[0] == 1


_STEP = st.tuples(st.sampled_from(["count", "tell", "last", "kill", "forget", "reload"]), st.integers(0, 2))


@given(st.lists(_STEP, max_size=60))
def test_no_sum_falls(steps: list[tuple[str, int]]) -> None:
    """Whatever workers do, in whatever order; and all that was told is in it."""
    kept, counted, pid, shown = Ledger(), [0, 0, 0], [1, 2, 3], 0
    for action, worker in steps:
        if action == "count":
            counted[worker] += 1
        elif action == "tell":
            kept.hear(pid[worker], figures(counted[worker]))
        elif action == "last":
            kept.hear_last(pid[worker], figures(counted[worker]))
        elif action == "forget":
            counted[worker] = 0
            kept.hear(pid[worker], figures(0))
        elif action == "reload":
            saved, kept = kept.saved(), Ledger()
            kept.load(saved)
        if action in ("kill", "last"):
            kept.end(pid[worker])
            pid[worker] += 3
            counted[worker] = 0
        found = [told["services"]["pets"] for told in kept.figures() if "pets" in told["services"]]
        total = sum(one["requests"]["2xx"] for one in found)
        assert total >= shown
        shown = total
