"""One thing that is told: a line for people, an object for programs. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec

What = Literal[
    "policy", "instance", "health", "agent", "mesh", "refused", "in_force", "reached", "lagging", "left_out", "etcd"
]
"""`reached`: all live agents have it, and not all of it is in force."""
MOST_TEXT: Final = 300
MOST_NAMED: Final = 5
"""Names in a line for people."""
MOST_LISTED: Final = 50
"""Names in an object for programs, which has their number besides."""
WIDTH: Final = max(map(len, ("in force", "instance", "left out"))) + 2


class Line(msgspec.Struct, frozen=True):
    """`text` is what others wrote, in part: whoever prints it makes it visible."""

    at: float
    """When it was heard of, in seconds since 1970."""
    revision: int
    """Of etcd; 0: of none."""
    what: What
    text: str
    more: dict[str, Any] = {}
    """Fields for programs."""
    note: bool = False
    """Whether it is of the watching, and not of what is watched."""

    def plain(self) -> str:
        """For people."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.at)) + f".{int(self.at * 1000) % 1000:03d}"
        revision = f"@{self.revision}" if self.revision else "-"
        text = self.text if len(self.text) <= MOST_TEXT else f"{self.text[:MOST_TEXT]}…"
        return f"{clock}  {revision:8}  {self.what.replace('_', ' '):{WIDTH}}{text}"

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {"time": round(self.at, 3), "revision": self.revision, "what": self.what, **self.more, "text": self.text}


def named(names: Sequence[str]) -> str:
    """Some names as a part of a sentence."""
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def listed(names: Iterable[str]) -> list[str]:
    """Some names for a program."""
    return sorted(names)[:MOST_LISTED]
