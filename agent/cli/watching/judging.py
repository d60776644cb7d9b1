"""What a document says of itself, and what agents will make of it, before their own word comes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.cli.watching.changes import Document
from agent.findings.of_mesh.enforcing import Text, unable
from policies.catalogue import KINDS, parse
from policies.language.document import Invalid
from policies.language.plain import Flaw, load
from policies.vocabulary import vocabulary

if TYPE_CHECKING:
    from registry.census import Census


class Judges:
    """Judges as this version's agents do; of others, by what they say that they know."""

    def __init__(self) -> None:
        self._census: Census | None = None
        """Of agents and their versions; None: all that say what they know know the same as we."""

    def know(self, census: Census) -> None:
        """What agents know, whose word of it was read. Of those that all know the same as we no document is asked."""
        ours = _text({kind.name: msgspec.to_builtins(vocabulary(kind.name)) for kind in KINDS})
        told = (version for host, version in census.versions.items() if host in census.agents)
        differ = any(version.lacks or _text(version.kinds) != ours for version in told)
        self._census = census if differ else None

    def judge(self, kind: str, pattern: str, text: bytes, aside: bool) -> Document:
        """A document that was put; `aside`: under `audits/`."""
        found = parse(kind, pattern, text)
        lacking = unable(self._census, [Text(kind, pattern, text, aside)]) if self._census is not None else []
        not_enforced = "; ".join(map(str, lacking))
        if isinstance(found, Invalid):
            return Document(*_said(text), aside, "" if not_enforced else f"{found.path}: {found.reason}", not_enforced)
        return Document(found.by, found.reason, aside or found.mode == "audit", "", not_enforced)


def _text(kinds: dict[str, dict[str, Any]]) -> bytes:
    return msgspec.json.encode(kinds, order="sorted")


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
