"""Services whose requests fail now, by the golden signals of the last minute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from agent.findings.finding import Finding

LAST_S: Final = 60
MANY: Final = 0.05
SOME: Final = 0.01
LEAST: Final = 20
"""Requests that have to have failed before some are worth a word: of few, one is a large share."""
LEAST_OF_MANY: Final = 3


class Signals(NamedTuple):
    """Of one service, in LAST_S."""

    service: str
    requests: int
    errors: float
    """Share that was answered with 5xx, by instances or by the mesh, from 0 to 1."""


def of_figures(rows: Iterable[Signals]) -> Iterator[Finding]:
    """The largest share first."""
    for row in sorted(rows, key=lambda row: (-row.errors, row.service)):
        failed = round(row.requests * row.errors)
        many = row.errors >= MANY and failed >= LEAST_OF_MANY
        if many or (row.errors >= SOME and failed >= LEAST):
            what = f"{row.errors:.1%} of {row.requests} requests were answered with 5xx in the last minute"
            see = f"`shoal logs {row.service} -f --status 5xx` shows which, and `shoal explain` why"
            yield Finding("failing", "error" if many else "warning", row.service, what, see)
