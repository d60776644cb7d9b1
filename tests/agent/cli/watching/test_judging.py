"""What a document says of itself, and what agents of this version and of others make of it."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.cli.watching.judging import Judges
from policies.catalogue import KINDS
from policies.vocabulary import vocabulary
from registry.census import Census
from registry.records import Agent, Version


def census(**kinds: dict[str, Any]) -> Census:
    agent = Agent(address="10.0.0.1", inbound_port=1)
    versions = {host: Version(version="0.1", kinds=known) for host, known in kinds.items()}
    return Census(agents=dict.fromkeys(kinds, agent), versions=versions)


def test_agents_that_know_less_are_named() -> None:
    """And no others; what all of them know the same is not asked document by document."""
    ours = {kind.name: msgspec.to_builtins(vocabulary(kind.name)) for kind in KINDS}
    judges = Judges()
    judges.know(census(a=ours, b=ours))
    assert (
        judges._census is None and judges.judge("scale", "pets", b'{"target": {"rate": 1}}', False).not_enforced == ""
    )
    judges.know(census(a=ours, old={kind: known for kind, known in ours.items() if kind != "scale"}))
    said = judges.judge("scale", "pets", b'{"target": {"rate": 1}, "max": 3, "by": "ada"}', False)
    assert said.not_enforced == "scale/pets is not enforced by old (0.1), which does not know the kind scale"
    assert (said.by, said.refused) == ("ada", "")
    assert judges.judge("retry", "pets", b"{}", False).not_enforced == ""


def test_what_is_only_watched_and_what_is_refused() -> None:
    """By its mode, or by where it stands; of a bad one it is known all the same who put it."""
    judges = Judges()
    assert judges.judge("retry", "pets", b'{"mode": "audit"}', False).is_watched
    assert judges.judge("retry", "pets", b"{}", True).is_watched
    bad = judges.judge("retry", "pets", b'{"attemptz": 2, "by": "ada", "reason": "why"}', False)
    assert (bad.by, bad.reason) == ("ada", "why") and "attempts" in bad.refused
    assert judges.judge("nothing", "pets", b"[", False).by == ""
