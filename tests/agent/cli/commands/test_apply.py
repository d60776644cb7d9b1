from __future__ import annotations

from agent.cli.census import Policy
from agent.cli.commands.apply import plan
from agent.cli.documents import Source


def source(kind: str, service: str, text: bytes = b"{}") -> Source:
    return Source(f"{kind}.yaml", kind, service, text)


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
