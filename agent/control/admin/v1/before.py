"""What was asked for before there was an API, and is asked for still: the same operations, by their names of then.

Law: here stands only what programs say that outlive the agent beside them. A `shoal run` renews its registration every
few seconds, and a program tells its own health: an agent that was upgraded under them, and did not understand them,
would take their instances out. Whoever is told no and can say it anew, as people can, asks the API.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.control.admin.door import Door
from agent.control.admin.v1.operation import Operation

BEFORE: Final = frozenset({"registerInstance", "deregisterInstance", "putHealth", "makeToken"})
"""Operations, by name; what they were asked for by is their path without the API's root."""


def doors_before(operations: Iterable[Operation]) -> list[Door]:
    """Those."""
    return [operation.door_before() for operation in operations if operation.name in BEFORE]
