# mypyc: compiled
"""How far the exchange on an upstream connection is."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Where an upstream connection stands."""

    CONNECTING = 0
    IDLE = 1
    HEAD = 2
    """A request was sent, its answer's head has not come whole."""
    BODY = 3
    TUNNEL = 4
