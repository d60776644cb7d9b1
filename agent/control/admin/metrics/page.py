"""/metrics: made off control's loop, one page at a time, in the format that is asked for.

Law: control's loop does nothing for a page but gather what is needed; text is made in a thread, which lets the loop in
every few milliseconds, and few of its objects live at once: the collector of garbage holds everybody up, and goes
through all of them (`of_workers.Samples`). Whoever asks while a page is made shares the next one, however many they
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from agent.control.admin.metrics.of_control import Figures, figures, of_control
from agent.control.admin.metrics.of_workers import of_workers
from agent.control.parts import Parts


class Collected:
    """Metrics of one moment, as a collector."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        return iter(self._metrics)


def render(workers: Sequence[dict[str, Any]], told: Figures, accept: str = "") -> tuple[bytes, str]:
    """The whole page and its type, for somebody who accepts that: OpenMetrics, or Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected([*of_workers(workers), *of_control(told)]))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


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
