"""Where in a TOML text a setting stands. tomllib does not tell, but it can be asked about the beginning of the text."""

from __future__ import annotations

import tomllib
from bisect import bisect_left
from typing import Any


def steps_of(path: str) -> list[str | int]:
    """`$.instances[0].port` as `["instances", 0, "port"]`."""
    steps: list[str | int] = []
    for part in path.removeprefix("$").split("."):
        name, *indices = part.replace("]", "").split("[")
        steps += [name] if name else []
        steps += [int(index) if index.isdigit() else index for index in indices]
    return steps


def line_of(text: str, steps: list[str | int]) -> int:
    """The line (from 1) of the statement that brings a setting, or else the nearest table around it; 0: none does.

    Every beginning of the text that ends with that statement, or later, holds the setting: it is found by halving.
    """
    lines = text.splitlines()
    for depth in range(len(steps), 0, -1):
        if _holds(lines, steps[:depth]):
            ends = _statements(lines)
            number = bisect_left(ends, True, key=lambda end: _holds(lines[:end], steps[:depth]))
            return (ends[number - 1] if number else 0) + 1
    return 0


def _statements(lines: list[str]) -> list[int]:
    """Behind which line each statement ends; blank lines and comments count as statements."""
    ends: list[int] = []
    start = 0
    for end in range(1, len(lines) + 1):
        if _parsed(lines[start:end]) is not None:
            ends.append(end)
            start = end
    return ends


def _parsed(lines: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _holds(lines: list[str], steps: list[str | int]) -> bool:
    value: Any = _parsed(lines)
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True
