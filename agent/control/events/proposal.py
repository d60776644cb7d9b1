"""What is to be put of an event, when this agent's turn has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from agent.events import Event
from registry.store import Compare, Delete, Put


def always() -> bool:
    """It is so for good."""
    return True


def at_once() -> float:
    """Nothing has to be waited for."""
    return -math.inf


class Proposal(NamedTuple):
    """Of one event, or of one condition."""

    after_s: float
    name: str
    """Of the event, or of the condition."""
    compare: list[Compare]
    operations: list[Put | Delete]
    lasts: Callable[[], bool] = always
    """Whether it is still so."""
    event: Event | None = None
    """To be recorded once it is put."""
    believed_at: Callable[[], float] = at_once
    """Not to be put before, by Trio's clock; that may move while it waits."""
