"""What Shoal promises of its own cost, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table


class Goal(msgspec.Struct, frozen=True):
    """One promise beside what was found."""

    what: str
    found: float
    limit: float
    unit: str = ""

    @property
    def kept(self) -> bool:
        """Whether it holds."""
        return self.found <= self.limit


def show(goals: Sequence[Goal], console: Console) -> None:
    """The table; nothing when nothing was promised about what was measured."""
    if not goals:
        return
    table = Table(title="What is promised")
    for heading in ("", "found", "at most", "kept"):
        table.add_column(heading, justify="left" if not heading else "right")
    for goal in goals:
        verdict = "yes" if goal.kept else "[bold red]no[/bold red]"
        table.add_row(goal.what, f"{goal.found:,.2f} {goal.unit}", f"{goal.limit:g} {goal.unit}", verdict)
    console.print(table)
