"""How long changes take, and which were the last."""

from __future__ import annotations

from agent.control.workers.convergence import NAMED, REMEMBERED, Convergence


def test_changes_of_documents_are_remembered_with_what_they_took() -> None:
    """Instances come and go and are no change of documents; what workers do not run so far has no time."""
    seen = Convergence()
    seen.hear(5, 100.0, ["route/a.p"], 1000.0)
    seen.hear(6, 100.5)
    seen.hear(7, 101.0, ["retry/a.p", "retry/b.p removed"], 1001.0)
    assert [(each.revision, each.took_s) for each in seen.latest] == [(5, None), (7, None)]
    seen.run(6, 102.0)
    assert [(each.revision, each.took_s) for each in seen.latest] == [(5, 2.0), (7, None)]
    seen.run(7, 103.0)
    assert [(each.revision, each.what, each.at, each.took_s) for each in seen.latest] == [
        (5, ("route/a.p",), 1000.0, 2.0),
        (7, ("retry/a.p", "retry/b.p removed"), 1001.0, 2.0),
    ]
    assert sum(seen.buckets) == 3


def test_there_is_an_end_to_what_is_remembered() -> None:
    """Of changes, and of the documents of one."""
    seen = Convergence()
    for revision in range(2 * REMEMBERED):
        seen.hear(revision, 0.0, [f"route/s{number}" for number in range(NAMED + 3)])
    assert len(seen.latest) == REMEMBERED
    assert seen.latest[-1].what[-1] == "and 3 more" and len(seen.latest[-1].what) == NAMED + 1
