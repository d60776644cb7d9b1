from __future__ import annotations

from agent.cli.commands.apply import plan
from agent.cli.documents import Source
from registry.census import Policy

AUDIT = b"mode: audit"


def source(kind: str, service: str, text: bytes = b"{}") -> Source:
    return Source(f"{kind}.yaml", kind, service, text, text == AUDIT)


HELD = {("route", "pets"): Policy("route", "pets", 7, b"{}"), ("retry", "pets"): Policy("retry", "pets", 8, b"{}")}


def test_only_what_differs_is_written() -> None:
    """A policy that etcd holds already keeps its revision: nothing is put for nothing."""
    todo = plan(
        [source("route", "pets"), source("retry", "pets", b"{ }"), source("timeout", "pets")], HELD, prune=False
    )
    assert ([s.kind for s in todo.unchanged], [s.kind for s in todo.changed], [s.kind for s in todo.created]) == (
        ["route"],
        ["retry"],
        ["timeout"],
    )
    assert (todo.size, todo.pruned) == (2, ())


def test_what_is_in_no_file_goes_only_when_asked_to() -> None:
    """--prune makes etcd hold exactly what the directory holds."""
    assert plan([source("route", "pets")], HELD, prune=True).pruned == (("retry", "pets"),)
    assert plan([source("route", "pets")], HELD, prune=False).size == 0


def held(*names: str, text: bytes = b"{}") -> dict[tuple[str, str], Policy]:
    places = [tuple(name.split("/")) for name in names]
    return {(kind, service): Policy(kind, service, 9, text) for kind, service in places}


def test_what_is_only_watched_takes_nothing_out_of_force() -> None:
    """It is compared with what is watched, and stands beside what is enforced, whatever that says."""
    todo = plan([source("retry", "pets", AUDIT)], HELD, prune=False)
    assert (todo.created, todo.changed, todo.pruned) == ((source("retry", "pets", AUDIT),), (), ())
    assert todo.beside == {"audits/retry/pets"}
    again = plan([source("retry", "pets", AUDIT)], HELD, held("retry/pets", text=AUDIT), prune=False)
    assert again.size == 0


def test_a_directory_has_both() -> None:
    """What is in force, and what is tried beside it."""
    files = [source("retry", "pets"), source("retry", "pets", AUDIT)]
    todo = plan(files, HELD, prune=True)
    assert (todo.unchanged, todo.created, todo.pruned) == ((files[0],), (files[1],), (("route", "pets"),))
    assert todo.beside == {"audits/retry/pets"}


def test_what_was_watched_under_policies_moves() -> None:
    """Of two for one name only one is watched; and the enforced one that takes its key needs no deletion."""
    before = held("retry/pets", text=AUDIT)
    todo = plan([source("retry", "pets", AUDIT)], before, prune=False)
    assert (todo.pruned, len(todo.created), todo.beside) == ((("retry", "pets"),), 1, frozenset())
    both = plan([source("retry", "pets", AUDIT), source("retry", "pets")], before, prune=False)
    assert (both.pruned, len(both.changed), len(both.created)) == ((), 1, 1)


def test_pruned_is_what_a_file_could_have_put() -> None:
    """Not what somebody watches on the side; and what no file enforces any more is enforced no more."""
    audits = held("retry/cats", text=AUDIT) | held("route/dogs") | held("shed/pigs", text=b"{mode: [audit")
    todo = plan([source("retry", "pets", AUDIT)], HELD, audits, prune=True)
    assert todo.unwatched == (("retry", "cats"),)
    assert todo.pruned == (("retry", "pets"), ("route", "pets")) and todo.beside == frozenset()
    assert plan([], {}, audits, prune=False).size == 0
