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
from agent.figures import series
from agent.figures.packed import Picked
from agent.figures.questions import FINE_S, QUESTION, WINDOW_S, By, FiguresAsked, FiguresTold, is_wanted
from agent.figures.series import MOST_SPANS, SeriesAsked, SeriesTold
from agent.figures.tally import fold, grouped

QUICK_BYTES: Final = 16 * 1024
"""Of windows that are added up without a thread: a millisecond or two."""
MARGIN_S: Final = 0.8
"""For looks to be made, and clocks to differ."""


class Figures:
    """Of one agent."""

    def __init__(
        self,
        sampler: Sampler,
        tree: Tree,
        answering: Answering,
        clock: Callable[[], float] = time.time,
        host: str = "",
    ) -> None:
        self._host = host
        self.sampler = sampler
        self._tree = tree
        self._clock = clock
        answering.register(QUESTION, self.answer)
        answering.register(series.QUESTION, self.answer_series)

    def asked(self, last_s: int = 60, by: By = "service", *, ago_s: int = 0, fine: bool = False) -> FiguresAsked:
        """A question for the windows that have ended by now, or had so long ago."""
        length = FINE_S if fine else WINDOW_S
        until = int(self._clock() - MARGIN_S - ago_s) // length * length
        return FiguresAsked(until, max(length, last_s // length * length), by, fine=fine)

    def asked_series(self, last_s: int, step_s: int, by: By = "service") -> SeriesAsked:
        """The same for spans of `step_s`, a multiple of a window's length: they end when the clock stands at a multiple
        of it."""
        until = int(self._clock() - MARGIN_S) // step_s * step_s
        return SeriesAsked(until, min(MOST_SPANS, max(1, last_s // step_s)), step_s, by)

    async def ask(
        self, asked: FiguresAsked, deadline_s: float, hosts: Collection[str] | None = None
    ) -> Merged[FiguresTold]:
        """All agents that live, or some."""
        return await self._tree.ask(QUESTION, asked, deadline_s, hosts)

    async def ask_series(
        self, asked: SeriesAsked, deadline_s: float, hosts: Collection[str] | None = None
    ) -> Merged[SeriesTold]:
        """The same of spans."""
        return await self._tree.ask(series.QUESTION, asked, deadline_s, hosts)

    async def answer_series(self, asked: SeriesAsked, _: Asker) -> SeriesTold:
        """This agent's part."""
        picked = self.sampler.windows.spans(asked.until, asked.step_s, asked.spans)
        if sum(each.size_bytes for each in picked) < QUICK_BYTES:
            return series.told(asked, picked)
        return await trio.to_thread.run_sync(series.told, asked, picked)

    async def answer(self, asked: FiguresAsked, _: Asker) -> FiguresTold:
        """This agent's part."""
        windows = self.sampler.fine if asked.fine else self.sampler.windows
        picked = windows.pick(asked.until, asked.last_s)
        if picked.size_bytes < QUICK_BYTES:
            return _told(asked, picked, self._host)
        return await trio.to_thread.run_sync(_told, asked, picked, self._host)


def _told(asked: FiguresAsked, picked: Picked, host: str) -> FiguresTold:
    found = picked.sum()
    wanted = {key: tally for key, tally in found.rows.items() if is_wanted(asked, key)}
    kept, folded = fold(grouped(wanted, asked.by), asked.most)
    shorter = {host: found.covered_s} if host and found.covered_s < asked.last_s else {}
    return FiguresTold(list(kept.items()), found.covered_s, found.missed, folded, shorter)
