"""What agents ask each other about figures.

    POST /ask/figures   `FiguresAsked` → `FiguresTold`   sums of the last windows; answers can be merged on their way

Law: who answers tells of what it has counted itself; whoever merges adds up, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from agent.figures.tally import Count, Key, Name, Tally, fold, merged
from agent.questions import FIGURES as NAME
from agent.questions import Question
from policies.language.names import matches

By: TypeAlias = Literal["service", "edge", "route", "version", "instance"]
WINDOW_S: Final = 10
KEPT_S: Final = 3600
FINE_S: Final = 2
"""Windows of services that are scaled are kept as short as this besides, for a while."""
MOST_SHORTER: Final = 100
"""Hosts that are named with how long they have counted; those with least are."""
MOST_ROWS: Final = 500
"""Of one answer without a word, and on the way of merged ones."""


class FiguresAsked(msgspec.Struct, frozen=True):
    """Which windows, of what, told apart how."""

    until: int
    """Unix time (s) at which the last window ended: a multiple of its length."""
    last_s: Annotated[int, Meta(ge=1, le=KEPT_S)] = 60
    by: By = "service"
    service: str = "*"
    """A name, or a pattern: *.production."""
    caller: str = ""
    """Empty: any."""
    instance: str = ""
    fine: bool = False
    """Windows of FINE_S, which there are of scaled services only."""
    most: Annotated[int, Meta(ge=4, le=10_000)] = MOST_ROWS
    """Rows; what is more is folded into others."""


class Which(Protocol):
    """What is asked about rows."""

    @property
    def service(self) -> str: ...

    @property
    def caller(self) -> str: ...

    @property
    def instance(self) -> str: ...


def is_wanted(asked: Which, key: Key) -> bool:
    """Whether a row is of what was asked about."""
    return (
        matches(asked.service, key.service)
        and (not asked.caller or (key.caller == asked.caller and not key.instance))
        and asked.instance in ("", key.instance)
    )


class FiguresTold(msgspec.Struct, frozen=True):
    """The sum of them."""

    rows: list[tuple[Key, Tally]]
    covered_s: Annotated[int, Meta(ge=0, le=KEPT_S)] = 0
    """For how long the agent that has counted longest did so, of what was asked."""
    missed: Count = 0
    """Windows that agents should have, and have not: what was counted then stands in the next one."""
    folded: Count = 0
    """Rows that went into others."""
    shorter: Annotated[dict[Name, Annotated[int, Meta(ge=0, le=KEPT_S)]], Meta(max_length=MOST_SHORTER)] = {}
    """By host: for how long it has counted of what was asked, where that is not all of it."""


def merge(asked: FiguresAsked, told: Sequence[FiguresTold]) -> FiguresTold:
    """One answer of several."""
    shorter = {host: covered_s for each in told for host, covered_s in each.shorter.items()}
    rows, folded = fold(merged(each.rows for each in told), asked.most)
    return FiguresTold(
        list(rows.items()),
        max((each.covered_s for each in told), default=0),
        sum(each.missed for each in told),
        folded + sum(each.folded for each in told),
        dict(sorted(shorter.items(), key=lambda item: (item[1], item[0]))[:MOST_SHORTER]),
    )


QUESTION: Final = Question(NAME, FiguresAsked, FiguresTold, most_bytes=1024 * 1024, merge=merge)
