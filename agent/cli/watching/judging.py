"""What a document says of itself, and what agents will make of it, before their own word comes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.enforcing import Text, unable
from agent.cli.watching.changes import Document
from policies.catalogue import parse
from policies.language.document import Invalid
from policies.language.plain import Flaw, load

if TYPE_CHECKING:
    from agent.cli.census import Census


class Judges:
    """Judges as this version's agents do; of others, by what they say that they know."""

    def __init__(self) -> None:
        self.census: Census | None = None
        """Of agents, their words and versions; None: nobody knows them."""

    def judge(self, kind: str, pattern: str, text: bytes, aside: bool) -> Document:
        """A document that was put; `aside`: under `audits/`."""
        found = parse(kind, pattern, text)
        lacking = unable(self.census, [Text(kind, pattern, text, aside)]) if self.census is not None else []
        not_enforced = "; ".join(map(str, lacking))
        if isinstance(found, Invalid):
            return Document(*_said(text), aside, "" if not_enforced else f"{found.path}: {found.reason}", not_enforced)
        return Document(found.by, found.reason, aside or found.mode == "audit", "", not_enforced)


def _said(text: bytes) -> tuple[str, str]:
    """By whom, and why, of a document that is not good."""
    try:
        raw = load(text)
    except Flaw:
        return "", ""
    if not isinstance(raw, dict):
        return "", ""
    by, reason = raw.get("by", ""), raw.get("reason", "")
    return by if isinstance(by, str) else "", reason if isinstance(reason, str) else ""
