"""Figures of the mesh: what this agent counts, and what all agents tell when they are asked.

    told = await figures.ask(last_s=60, by="service")     # by the agents that live, or those of `hosts`

Law: an answer is of windows that have ended everywhere. So it is up to MARGIN_S older than a window's length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

import trio

from agent.control.asking.answering import Answering, Asker
from agent.control.asking.tree import Merged, Tree
from agent.control.figures.sampler import Sampler
from agent.figures.packed import Picked
from agent.figures.questions import FINE_S, QUESTION, WINDOW_S, By, FiguresAsked, FiguresTold
from agent.figures.tally import Key, fold, grouped
from policies.language.names import matches

QUICK_BYTES: Final = 16 * 1024
"""Of windows that are added up without a thread: a millisecond or two."""
MARGIN_S: Final = 0.8
"""For looks to be made, and clocks to differ."""


class Figures:
    """Of one agent."""

    def __init__(
        self, sampler: Sampler, tree: Tree, answering: Answering, clock: Callable[[], float] = time.time
    ) -> None:
        self.sampler = sampler
        self._tree = tree
        self._clock = clock
        answering.register(QUESTION, self.answer)

    def asked(self, last_s: int = 60, by: By = "service", *, fine: bool = False) -> FiguresAsked:
        """A question for the windows that have ended by now."""
        length = FINE_S if fine else WINDOW_S
        until = int(self._clock() - MARGIN_S) // length * length
        return FiguresAsked(until, max(length, last_s // length * length), by, fine=fine)

    async def ask(
        self, asked: FiguresAsked, deadline_s: float, hosts: Collection[str] | None = None
    ) -> Merged[FiguresTold]:
        """All agents that live, or some."""
        return await self._tree.ask(QUESTION, asked, deadline_s, hosts)

    async def answer(self, asked: FiguresAsked, _: Asker) -> FiguresTold:
        """This agent's part."""
        windows = self.sampler.fine if asked.fine else self.sampler.windows
        picked = windows.pick(asked.until, asked.last_s)
        if picked.size_bytes < QUICK_BYTES:
            return _told(asked, picked)
        return await trio.to_thread.run_sync(_told, asked, picked)


def _told(asked: FiguresAsked, picked: Picked) -> FiguresTold:
    found = picked.sum()
    wanted = {key: tally for key, tally in found.rows.items() if _is_wanted(asked, key)}
    kept, folded = fold(grouped(wanted, asked.by), asked.most)
    return FiguresTold(list(kept.items()), found.covered_s, found.missed, folded)


def _is_wanted(asked: FiguresAsked, key: Key) -> bool:
    return (
        matches(asked.service, key.service)
        and (not asked.caller or (key.caller == asked.caller and not key.instance))
        and asked.instance in ("", key.instance)
    )
