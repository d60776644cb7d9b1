"""What agents ask each other about figures over time: the sums of each of several spans of equal length. Pure.

    POST /ask/series   `SeriesAsked` → `SeriesTold`

Laws
- A span is told as `FiguresTold` would tell it, and spans of all hosts go together: they end at multiples of a window.
- Rows with most requests over the whole time are told, as many as POINTS has room for. What is left out goes over as
  numbers made of names, and so is counted once, however many agents had no room for it; what one of them had no room
  for, and another tells, is not left out.
- Of a row that is told an agent may have had no room: `lacking` is what it may lack at most, by any order of merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from agent.figures.packed import Picked
from agent.figures.questions import KEPT_S, WINDOW_S, By, is_wanted
from agent.figures.tally import MOST, Count, Key, Tally, grouped
from agent.questions import SERIES as NAME
from agent.questions import Question

POINTS: Final = 800
"""Of one answer, over all rows: sixteen such fit into what who asks by way of others reads (`control/asking/tree`)."""
MOST_LEFT: Final = 512
"""Rows without room that are known by a number; what is beyond is counted as at least so many."""
MOST_SPANS: Final = KEPT_S // WINDOW_S
Covered: TypeAlias = Annotated[list[Annotated[int, Meta(ge=0, le=KEPT_S)]], Meta(max_length=MOST_SPANS)]
Number: TypeAlias = Annotated[int, Meta(ge=0)]
Spans: TypeAlias = Annotated[list[Tally], Meta(max_length=MOST_SPANS)]


class SeriesAsked(msgspec.Struct, frozen=True):
    """Which spans, of what, told apart how."""

    until: int
    """Unix time (s) at which the last span ended."""
    spans: Annotated[int, Meta(ge=1, le=MOST_SPANS)]
    step_s: Annotated[int, Meta(ge=WINDOW_S, le=KEPT_S, multiple_of=WINDOW_S)] = WINDOW_S
    by: By = "service"
    service: str = "*"
    """A name, or a pattern: *.production."""
    caller: str = ""
    """Empty: any."""
    instance: str = ""

    @property
    def most(self) -> int:
        """Rows."""
        return max(1, POINTS // self.spans)


class SeriesTold(msgspec.Struct, frozen=True):
    """The sums of them, the first span first."""

    rows: list[tuple[Key, Spans]]
    covered_s: Covered
    """Of each span: for how long somebody counted."""
    missed: Count = 0
    """Windows that agents should have, and have not, from the first to the last that each has."""
    left_out: Count = 0
    """Rows for which there was no room; at least so many, where they are more than MOST_LEFT."""
    left: Annotated[list[Number], Meta(max_length=MOST_LEFT)] = []
    """Which, as numbers made of their names: the lowest MOST_LEFT, sorted."""
    lacking: Count = 0
    """Requests, at most, that any row has besides what is told of it, with agents that had no room for it."""
    cut: Count = 0
    """Requests, at most, of any row that is not told."""


def told(asked: SeriesAsked, picked: Sequence[Picked]) -> SeriesTold:
    """One agent's part; `picked`: its windows, span by span."""
    rows: dict[Key, list[Tally]] = {}
    covered: list[int] = []
    missed = 0
    for number, each in enumerate(picked):
        found = each.sum()
        covered.append(found.covered_s)
        missed += found.missed
        wanted = {key: tally for key, tally in found.rows.items() if is_wanted(asked, key)}
        for key, tally in grouped(wanted, asked.by).items():
            rows.setdefault(key, [Tally() for _ in picked])[number] = tally
    kept, others = _largest(rows, asked.most)
    left = sorted(_number(key) for key, _ in others)
    return SeriesTold(kept, covered, missed, len(left), left[:MOST_LEFT], cut=_most(others))


def merge(asked: SeriesAsked, parts: Sequence[SeriesTold]) -> SeriesTold:
    """One answer of several. What has another number of spans than was asked for makes no sense, and is left out."""
    rows: dict[Key, list[Tally]] = {}
    covered = [0] * asked.spans
    parts = [
        part
        for part in parts
        if len(part.covered_s) == asked.spans and all(len(spans) == asked.spans for _, spans in part.rows)
    ]
    for part in parts:
        covered = list(map(max, covered, part.covered_s))
        for key, spans in part.rows:
            sums = rows.setdefault(key, [Tally() for _ in spans])
            for total, tally in zip(sums, spans, strict=True):
                total.add(tally)
    kept, others = _largest(rows, asked.most)
    left = {number for part in parts for number in part.left} | {_number(key) for key, _ in others}
    left -= {_number(key) for key, _ in kept}
    # Of a part that could not name all that it left out it is known how many rows it has.
    at_least = max((len(part.rows) + part.left_out for part in parts), default=0) - len(kept)
    lacking = sum(max(part.lacking, part.cut) for part in parts)
    cut = max(_most(others) + lacking if others else 0, sum(part.cut for part in parts))
    return SeriesTold(
        kept,
        covered,
        min(MOST, sum(part.missed for part in parts)),
        min(MOST, max(len(left), at_least)),
        sorted(left)[:MOST_LEFT],
        min(MOST, lacking),
        min(MOST, cut),
    )


Row: TypeAlias = tuple[Key, list[Tally]]


def _largest(rows: dict[Key, list[Tally]], most: int) -> tuple[list[Row], list[Row]]:
    """Those, and the others; of each the largest first."""
    ordered = sorted(rows.items(), key=lambda row: (-_requests(row[1]), row[0]))
    return ordered[:most], ordered[most:]


def _most(others: Sequence[Row]) -> int:
    return _requests(others[0][1]) if others else 0


def _requests(spans: Iterable[Tally]) -> int:
    return sum(tally.total for tally in spans)


def _number(key: Key) -> int:
    """The same with every agent; of two names it is hardly ever the same (64 bits)."""
    return int.from_bytes(blake2b("\n".join(key).encode("utf-8", "replace"), digest_size=8).digest())


QUESTION: Final = Question(NAME, SeriesAsked, SeriesTold, most_bytes=1024 * 1024, merge=merge)
