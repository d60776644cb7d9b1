"""How much of a processor the programs of this host's instances take, as far as the kernel shows it to the agent.

Law: whose a port is, is looked up once in FIND_S, since it means a look at every process; what it has used since, at
each window. What cannot be seen is left out: nobody is told that it was nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from agent.control.host.port_holders import holders
from agent.control.instances.registration import Identity
from agent.settings.address import Address

FIND_S: Final = 60.0
MOST: Final = 50
"""Instances that are looked up."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_AFTER_NAME: Final = 11, 12
"""utime and stime, of the fields behind the name (proc(5))."""


def pids_of(places: Iterable[Address]) -> dict[Address, frozenset[int]]:
    """By address: the processes that listen there and that may be seen."""
    found = {}
    for place in list(places)[:MOST]:
        pids = frozenset(each.pid for each in holders(place) if each.pid and not each.worker)
        if pids:
            found[place] = pids
    return found


def used_s(pid: int) -> float | None:
    """Seconds of processor that a process has used; None: it has ended, or may not be seen."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(words[at]) for at in _AFTER_NAME) / _TICKS
    except (OSError, ValueError, IndexError):
        return None


class Cpu:
    """Asked again and again, in a thread."""

    def __init__(
        self,
        find: Callable[[Iterable[Address]], Mapping[Address, frozenset[int]]] = pids_of,
        used: Callable[[int], float | None] = used_s,
    ) -> None:
        self._find = find
        self._used = used
        self._pids: Mapping[Address, frozenset[int]] = {}
        self._places: frozenset[Address] = frozenset()
        self._found_at = float("-inf")
        self._before: dict[int, tuple[float, float]] = {}
        """By process: what it had used, and when that was looked at."""

    def look(self, places: Mapping[Identity, Address], now: float) -> dict[Identity, int]:
        """By instance: thousandths of a core since the look before. `places`: where they listen. `now`: seconds."""
        wanted = frozenset(places.values())
        if now - self._found_at >= FIND_S or wanted - self._places:
            self._pids, self._places, self._found_at = self._find(sorted(wanted)), wanted, now
        seen = {}
        for pid in {pid for pids in self._pids.values() for pid in pids}:
            used = self._used(pid)
            if used is not None:
                seen[pid] = (used, now)
        found: dict[Identity, int] = {}
        for identity, place in places.items():
            shares = [self._share(pid, seen[pid]) for pid in self._pids.get(place, ()) if pid in seen]
            known = [share for share in shares if share is not None]
            if known:
                found[identity] = sum(known)
        self._before = seen
        return found

    def _share(self, pid: int, now: tuple[float, float]) -> int | None:
        before = self._before.get(pid)
        if before is None or now[1] <= before[1]:
            return None
        return max(0, int(1000 * (now[0] - before[0]) / (now[1] - before[1])))
