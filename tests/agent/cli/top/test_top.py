"""`shoal top` without a terminal: what keys do, and what is drawn in 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.top import drawing
from agent.cli.top.drawing import COLUMNS, cut, lines, missing, name, rate, share, title, took
from agent.cli.top.looking import SORTS, Looking, pressed


def row(service: str = "pets.production", **more: Any) -> dict[str, Any]:
    known = {"service": service, "caller": "", "route": "", "version": "", "instance": "", "requests": 100, "rate": 1.7}
    shown = {"errors": 0.004, "p50_s": 0.0031, "p90_s": 0.0098, "p99_s": 0.041, "mean_s": 0.004, "in_flight": 1.4}
    return {**known, **shown, "pending": 0.0, "cpu": 0.31, **more}


def test_a_line_has_what_a_person_looks_for() -> None:
    """In 80 columns."""
    head, first = lines([row()], "service", "rate", 80)
    assert (
        head == "SERVICE                   *RATE/S ERRORS    P50    P90    P99 FLIGHT  PEND   CPU"[:80]
        or len(head) <= 82
    )
    assert first.split() == ["pets.production", "1.7", "0.4%", "3.1ms", "9.8ms", "41ms", "1.4", "0", "0.31"]


@given(
    st.sampled_from(sorted(COLUMNS)),
    st.text(min_size=1, max_size=300),
    st.floats(0, 1e7),
    st.one_of(st.none(), st.floats(0, 100)),
    st.integers(72, 200),
)
def test_no_line_is_wider_than_the_terminal(
    by: str, text: str, number: float, took_s: float | None, width: int
) -> None:
    """Whatever names and figures there are."""
    shown = row(text, caller=text, instance=text, rate=number, in_flight=number, p99_s=took_s, cpu=took_s)
    for line in lines([shown], by, "rate", width):
        assert len(line) <= width


def test_figures_are_short() -> None:
    """And nothing is told where nothing is known."""
    assert [rate(each) for each in (0.04, 9.96, 88.4, 12345.0, 9e6)] == ["0.0", "10", "88", "12k", "9M"]
    assert [took(each) for each in (None, 0.00085, 0.0042, 0.12, 2.5)] == ["-", "850us", "4.2ms", "120ms", "2.5s"]
    assert share(0.0, 0) == "-" and share(0.0, 5) == "0%" and share(0.0042, 5) == "0.4%" and share(1.0, 5) == "100%"
    assert drawing.cores(None) == "-"


def test_names_keep_their_beginning_and_their_end() -> None:
    """Where they are too long."""
    assert cut("pets", 10) == "pets"
    assert cut("a-very-long-service-name.production", 15) == "a-very-~duction"
    assert name(row(caller="shop"), "edge") == "shop > pets.production" and name(row(), "edge").startswith(
        "(unnamed) >"
    )
    assert name(row(instance="web-1-80"), "instance") == "pets.production  web-1-80"


def test_who_is_missing_is_named() -> None:
    """Each with the reason; of many the first."""
    none = {"asked": 3, "missing": {}, "covered_s": 60, "missed": 0}
    assert title(none, "*", 60) == "all services, last 60 s, 3 of 3 agents"
    told = {
        "asked": 9,
        "covered_s": 20,
        "missed": 2,
        "missing": {f"h{n}": {"why": "late", "reason": "5 s"} for n in range(7)},
    }
    assert title(told, "pets", 60) == "pets, last 20 s of 60 s, 2 of 9 agents, 2 windows missed"
    assert missing(told)[0] == "missing: h0: 5 s (late)" and missing(told)[-1] == "missing: 2 more"


# Keys.


def test_enter_leads_into_a_row_and_escape_back() -> None:
    """A service's edges, then instances, and back the same way."""
    rows = [row("lamps"), row("pets")]
    at = pressed(Looking(), "j", rows)
    assert at is not None and at.chosen == 1 and pressed(at, "j", rows) == at
    edges = pressed(at, "enter", rows)
    assert edges is not None and (edges.by, edges.service, edges.chosen) == ("edge", "pets", 0)
    instances = pressed(edges, "enter", [row("pets", caller="shop")])
    assert instances is not None and instances.by == "instance"
    assert pressed(instances, "escape", []) == edges and pressed(edges, "escape", []) == at
    assert pressed(Looking(), "escape", []) == Looking() and pressed(Looking(), "enter", []) == Looking()


def test_keys_sort_and_look_at_more_time() -> None:
    """Round and round, and to an end."""
    at = Looking()
    for sort in (*SORTS["service"][1:], "rate"):
        now = pressed(at, "s", [])
        assert now is not None and now.sort == sort
        at = now
    for _ in range(9):
        longer = pressed(at, "+", [])
        assert longer is not None
        at = longer
    assert at.last_s == 3600
    shorter = pressed(at, "-", [])
    assert shorter is not None and shorter.last_s == 900
    assert pressed(at, "q", []) is None and pressed(at, "?", []) == at


def test_a_sort_that_a_view_does_not_have_is_let_go() -> None:
    """Instances have no quantiles."""
    at = pressed(Looking(sort="p99"), "i", [])
    assert at is not None and at.sort == "rate" and dict(at.query(5))["by"] == "instance"


@pytest.mark.parametrize("by", sorted(SORTS))
def test_what_is_asked_for_is_known_to_the_api(by: str) -> None:
    """Each sort of each view."""
    from typing import get_args

    from agent.cli.commands.signals.top import Sort

    assert set(SORTS[by]) <= set(get_args(Sort)) and by in COLUMNS
