"""What a figure was measured on: no figure is worth quoting without it."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent import build


class Machine(msgspec.Struct, frozen=True):
    """The machine, the day and the versions."""

    date: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    revision: str
    """The commit of Shoal that was measured; `+` after it means that the work tree had changes."""
    build: str
    """`compiled`, or `interpreted` and why: which the agents of this run are, too."""


def describe() -> Machine:
    """This machine, now."""
    cores = sorted(os.sched_getaffinity(0))
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=_first("/proc/cpuinfo", "model name"),
        cores=len(cores),
        memory_gib=round(int(_first("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        revision=_revision(),
        build=build.describe(),
    )


def placement() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(cores for the proxy, cores for load and upstream): apart from each other, so that neither takes from the other.

    The proxy has one core, whole; with a single core in the machine nothing is pinned.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return (), ()
    return (cores[-1],), tuple(cores[:-1])


def _first(path: str, field: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return "unknown"


def _revision() -> str:
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*argv: str) -> str:
    return subprocess.run(["git", *argv], check=True, capture_output=True, text=True).stdout.strip()
