"""Processes that a test started, and what those started."""

from __future__ import annotations

import os
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Children of any of its threads, and theirs, which may stand in sessions of their own."""
    found = []
    for task in (Path("/proc") / str(pid) / "task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    try:
        return ") Z " not in (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return False


def tell(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
