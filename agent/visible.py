# mypyc: interpreted, because it is of what people are shown, and no request waits for it
r"""What others wrote, as text and nothing else: what a terminal obeys, or does not show, is shown as an escape.

Versions, zones, reasons and keys come from whoever may write to etcd, and end in terminals and logs of people who trust
what they see. `\x1b[2J` clears a screen, U+202E turns a line around, a line's end begins a line that was never said.

>>> visible("v1\x1b[2J\n")
'v1\\x1b[2J\\n'
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import MutableMapping
from typing import Any, Final

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control characters, formats (those that turn the direction among them), surrogates, what nobody has assigned, and
line and paragraph separators."""
_HIGHEST: Final = 0xFFFF


def visible(text: str) -> str:
    """One line of text."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in text)


def visible_lines(text: str) -> str:
    """Text whose lines are its own: their ends stay, and tabs."""
    return "".join(char if char in "\n\t" else _shown(char) for char in text)


def visible_json(text: str) -> str:
    """JSON that says the same: in it only what stands in strings can be beyond ASCII, and has an escape there."""
    if text.isascii() and "\x7f" not in text:
        return text  # a control character in a string is an escape already
    return "".join(_json_escape(char) if _is_hidden(char) and char not in "\n\t" else char for char in text)


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN


def _shown(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii") if _is_hidden(char) else char


def _json_escape(char: str) -> str:
    code = ord(char)
    if code <= _HIGHEST:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


# The log.


def visible_values(_: Any, __: str, told: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: every value one line."""
    for name, value in told.items():
        if not isinstance(value, bool | int | float | None):
            told[name] = visible(str(value))
    return told


class VisibleFormatter(logging.Formatter):
    """For what libraries and workers log: a record is a line, and the message stands in quotes."""

    def __init__(self) -> None:
        super().__init__('timestamp=%(asctime)s level=%(levelname)s event="%(message)s"')

    def formatMessage(self, record: logging.LogRecord) -> str:
        """No message ends its quotes."""
        record.message = record.message.replace("\\", "\\\\").replace('"', '\\"')
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """A traceback stays on the line of its record."""
        return visible(super().format(record))
