"""/metrics: made off control's loop, one page at a time, in the format that is asked for.

Law: control's loop does nothing for a page but gather what is needed; text is made in a thread, which lets the loop in
every few milliseconds, and no object stands for a sample (`text`). Whoever asks while a page is made shares the next
one, however many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from agent.control.admin.metrics.of_control import Figures, figures, write_control
from agent.control.admin.metrics.of_workers import write_workers
from agent.control.admin.metrics.text import OPEN_METRICS, TEXT, Writer, asks_for_open_metrics
from agent.control.parts import Parts


def render(workers: Sequence[dict[str, Any]], told: Figures, accept: str = "") -> tuple[bytes, str]:
    """The whole page and its type, for somebody who accepts that: OpenMetrics, or Prometheus' text format."""
    page = Writer(open_metrics=asks_for_open_metrics(accept))
    write_workers(page, workers)
    write_control(page, told)
    return page.page(), OPEN_METRICS if page.open_metrics else TEXT


class MetricsPage:
    """Of one agent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._making = trio.Lock()
        self._asked = 0
        """So many have asked for a page."""
        self._made: dict[str, tuple[int, tuple[bytes, str]]] = {}
        """The newest, while others wait, by what was accepted; and how many had asked when it was begun."""

    async def get(self, accept: str) -> tuple[bytes, str]:
        """One that was begun after it was asked for, and its type."""
        self._asked += 1
        number = self._asked
        async with self._making:
            begun, page = self._made.get(accept, (0, (b"", "")))
            if begun >= number:
                return page
            begun = self._asked
            workers = await self._parts.fleet.metrics()
            page = await trio.to_thread.run_sync(render, workers, figures(self._parts), accept)
            self._made = {accept: (begun, page)} if self._making.statistics().tasks_waiting else {}
            return page
