"""What commands print: tables for people, JSON for scripts. Answers go to stdout, everything else to stderr.

rich drops the colours where there is no terminal, and where NO_COLOR is set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Output = Literal["table", "json"]
Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Any], str]]

# The words that mean something good or bad wherever they stand alone in a cell.
STYLES = {
    "healthy": "green",
    "serving": "green",
    "current": "green",
    "enforce": "green",
    "ready": "green",
    "unhealthy": "bold red",
    "refused": "bold red",
    "unreachable": "bold red",
    "lagging": "yellow",
    "draining": "yellow",
    "audit": "yellow",
    "unchecked": "dim",
    "-": "dim",
}
PIPE_WIDTH = 4096
"""Characters: a table that is piped is never folded, so that grep and awk see whole rows."""


class Printer:
    """Prints answers in the form that was asked for."""

    def __init__(self, output: Output) -> None:
        self.json = output == "json"

    def rows(self, rows: Sequence[Row], columns: Columns, empty: str) -> None:
        """A list of things. JSON gets the rows whole; a table shows `columns`, each made from a row."""
        if self.json:
            self.value(list(rows))
        elif rows:
            self._table(rows, columns)
        else:
            self.note(empty)

    def value(self, value: Any) -> None:
        """One thing, as JSON."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def text(self, text: str) -> None:
        """An answer that is text already: a document, a revision."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def note(self, text: str) -> None:
        """A word to the person, which a script must not mistake for the answer."""
        print(text, file=sys.stderr)

    def _table(self, rows: Sequence[Row], columns: Columns) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for name in columns:
            table.add_column(name.upper(), overflow="fold")
        for row in rows:
            cells = [cell(row) for cell in columns.values()]
            table.add_row(*(Text(text, style=STYLES.get(text, "")) for text in cells))
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False).print(table)


def field(name: str) -> Callable[[Row], str]:
    """A column that shows one field as it is; '-' where there is nothing."""

    def cell(row: Row) -> str:
        value = row.get(name)
        return "-" if value is None or value == "" or value == [] else str(value)

    return cell


def age(seconds: float) -> str:
    """A duration that a person takes in at a glance: 0.4s, 12s, 3m, 5h, 2d."""
    for limit, divisor, unit in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds:.1f}{unit}" if limit == 10 else f"{seconds / divisor:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
