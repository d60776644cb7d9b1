"""Which releases of etcd have faults that a mesh meets, by their makers' own word; asked of the members themselves."""

from __future__ import annotations

import re
from typing import Final

_FAULTS: Final = (
    ((3, 5, 0), (3, 5, 3), "releases before 3.5.3 can lose data that was confirmed, when a member is killed"),
    ((3, 5, 0), (3, 5, 18), "releases before 3.5.18 can lose watch events, of which agents would not hear"),
    ((3, 4, 0), (3, 4, 36), "releases before 3.4.36 can lose watch events, of which agents would not hear"),
    ((0, 0, 0), (3, 4, 0), "Shoal needs 3.4"),
)
_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def known_faults(version: str) -> tuple[str, ...]:
    """What is wrong with a release; nothing for one that is not known to have a fault, or whose name says nothing."""
    found = _NUMBERS.match(version)
    if found is None:
        return ()
    numbers = tuple(map(int, found.groups()))
    return tuple(reason for first, fixed, reason in _FAULTS if first <= numbers < fixed)


def warning(version: str, url: str) -> str:
    """A line for people; empty where nothing is wrong."""
    faults = known_faults(version)
    return f"etcd {version} on {url}: {'; '.join(faults)}; upgrade" if faults else ""
