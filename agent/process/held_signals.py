"""Signals that come while nobody listens: when a process starts, and while it is executed anew. Unheard they would end
it; held, they count as soon as somebody does."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Final

HELD: Final = frozenset({signal.SIGHUP, signal.SIGUSR1})
_noted: set[int] = set()


def _note(number: int, _: FrameType | None) -> None:
    _noted.add(number)


def hold() -> None:
    """From now on they are noted, in place of their ending this process; whoever listens to them has them meanwhile."""
    for number in HELD:
        signal.signal(number, _note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)  # those that the process before left


def hand_on() -> None:
    """What was noted comes to who listens now."""
    noted = [*_noted]
    _noted.clear()
    for number in noted:
        signal.raise_signal(number)


def leave_to_successor() -> None:
    """What was noted, and what still comes, waits for the process that this one becomes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    for number in _noted:
        signal.pthread_kill(threading.get_ident(), number)
