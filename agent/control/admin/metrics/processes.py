"""The processes of the agent, from /proc: what any program's metrics say of its process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from agent.control.admin.metrics.text import COUNTER, GAUGE, Family, Writer

_LABELS: Final = ("worker", "pid")
_FAMILIES: Final = (
    ("process_virtual_memory_bytes", GAUGE, "Virtual memory"),
    ("process_resident_memory_bytes", GAUGE, "Resident memory"),
    ("process_start_time_seconds", GAUGE, "When it was started, since the epoch"),
    ("process_cpu_seconds", COUNTER, "Processor time, user and system"),
    ("process_open_fds", GAUGE, "Open file descriptors"),
    ("process_max_fds", GAUGE, "How many of them there may be"),
)


def write(page: Writer, workers: Sequence[tuple[str, int]]) -> None:
    """Control's without labels; its workers' with: index and process of each. What cannot be read is left out."""
    own = _figures("self")
    others = [((index, str(pid)), _figures(str(pid))) for index, pid in workers]
    for number, (name, type, text) in enumerate(_FAMILIES):
        page.write(Family(name, type, text), [((), own[number])] if number in own else [])
        page.add(
            "".join(
                f'{name}{"_total" if type == COUNTER else ""}{{worker="{index}",pid="{pid}"}} {figures[number]}\n'
                for (index, pid), figures in others
                if number in figures
            )
        )


def _figures(process: str) -> dict[int, float]:
    """By the place in `_FAMILIES`. proc_pid_stat(5): fields are counted behind the name, which may hold anything."""
    folder = Path("/proc", process)
    found: dict[int, float] = {}
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        ticks = float(os.sysconf("SC_CLK_TCK"))
        found[0] = int(fields[20])
        found[1] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        found[2] = _booted_at() + int(fields[19]) / ticks
        found[3] = (int(fields[11]) + int(fields[12])) / ticks
        found[4] = len(os.listdir(folder / "fd"))
        for line in (folder / "limits").read_text().splitlines():
            if line.startswith("Max open files"):
                found[5] = float(line.split()[3].replace("unlimited", "inf"))
    except OSError:
        pass  # it has ended, or is another user's
    return found


@lru_cache(maxsize=1)
def _booted_at() -> float:
    """Of the host, since the epoch."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
