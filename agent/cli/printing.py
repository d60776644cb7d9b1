"""What commands print: tables for people, JSON for scripts. Answers go to stdout, everything else to stderr.

Laws
- This module alone writes to a terminal (tests/test_layering.py).
- What others wrote is shown as text: what a terminal would obey appears as an escape (agent.visible). One call of
  `text` or `note` is one line, whatever stands in it.

rich drops the colours where there is no terminal, and where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TextIO

from agent.visible import visible, visible_json, visible_lines

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
GAP = 2
"""Characters between two columns."""
answered: list[bool] = []
"""Whether there was an answer in JSON."""
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
        answered.append(True)
        _write(sys.stdout, visible_json(json.dumps(value, indent=2, ensure_ascii=False)))

    def text(self, text: str) -> None:
        """A line of an answer."""
        _write(sys.stdout, visible(text))

    def document(self, text: str) -> None:
        """An answer of many lines that somebody wrote: as it is for a file or a pipe, for a terminal as text."""
        shown = visible_lines(text) if sys.stdout.isatty() else text
        _write(sys.stdout, shown.removesuffix("\n"))

    def note(self, text: str) -> None:
        """A word to the person, which a script must not mistake for the answer."""
        note(text)

    def _table(self, rows: Sequence[Row], columns: Columns) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        cells = [[visible(cell(row)) for cell in columns.values()] for row in rows]
        terminal = Console().width if sys.stdout.isatty() else PIPE_WIDTH
        fitting = widths([[name.upper() for name in columns], *cells], terminal)
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        for number, name in enumerate(columns):
            table.add_column(name.upper(), overflow="fold", width=fitting[number] if fitting else None)
        for row in cells:
            table.add_row(*(Text(text, style=STYLES.get(text, "")) for text in row))
        Console(width=terminal if fitting else PIPE_WIDTH, highlight=False, emoji=False).print(table)


def widths(cells: Sequence[Sequence[str]], terminal: int) -> list[int] | None:
    """How wide each column is, so that lines end between words and never in one; None where a terminal of that many
    characters has no room for that: then no line is folded, and the terminal goes on in the next."""
    columns = [list(column) for column in zip(*cells, strict=True)]
    natural = [max(map(_width, column)) for column in columns]
    least = [max(_width(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    room = terminal - GAP * len(columns)
    if sum(natural) <= room:
        return natural
    if sum(least) > room:
        return None
    wanted = sum(natural) - sum(least)
    return [low + (room - sum(least)) * (high - low) // wanted for low, high in zip(least, natural, strict=True)]


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def say(text: str) -> None:
    """A line on standard output, before it is known in which form answers are wanted."""
    _write(sys.stdout, visible(text))


def note(text: str) -> None:
    """A line on standard error."""
    _write(sys.stderr, visible(text))


def lines(text: str) -> None:
    """Lines on standard error: a hint of ours, a traceback, the end of a log."""
    _write(sys.stderr, visible_lines(text).removesuffix("\n"))


def stop_printing() -> None:
    """Whoever read us has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    if stream is sys.stderr:
        stream.flush()


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


# A terminal that is drawn anew again and again.


def is_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()


def terminal_width() -> int:
    """In characters; of what is no terminal, 80."""
    return shutil.get_terminal_size((80, 24)).columns if is_terminal() else 80


KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b": "escape",
    "\x7f": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x03": "q",
}
"""What a terminal sends, and what that means; anything else is itself."""


class Screen:
    """The whole terminal, for the length of a block; as it was behind it, whatever happens."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, emoji=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, transient=True)
        self._before: list[Any] | None = None

    @property
    def width(self) -> int:
        """In characters, now."""
        return self._console.width

    def __enter__(self) -> Screen:
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def show(self, lines: Sequence[str], chosen: int, below: Sequence[str]) -> None:
        """Lines from the top, of which as many as there is room for, one of them chosen; and some at the bottom."""
        from rich.text import Text

        room = max(1, self._console.height - len(below))
        first = max(0, min(chosen - room + 1, len(lines) - room))
        shown = [*lines[: min(2, room)], *lines[first + 2 : first + room]] if first else [*lines[:room]]
        styles = {visible(lines[chosen]): "reverse"} if chosen < len(lines) else {}
        text = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(map(visible, shown)):
            text.append(line[: self.width] + "\n", style=styles.get(line, "bold" if number == 1 else ""))
        text.append("\n" * (room - len(shown)))
        text.append("\n".join(visible(line)[: self.width] for line in below), style="dim")
        self._live.update(text, refresh=True)

    def key(self, most_s: float) -> str | None:
        """The next that is pressed; None: none was in that time, or there are no keys here."""
        if self._before is None:
            time.sleep(most_s)
            return None
        ready, _, _ = select.select([sys.stdin], [], [], most_s)
        if not ready:
            return None
        told = os.read(sys.stdin.fileno(), 16).decode("utf-8", "replace")
        return KEYS.get(told, told[:1] if told else "q")
