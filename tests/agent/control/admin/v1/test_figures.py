"""Figures over time by HTTP: what is not told is said, and control's loop does not stand still for what is."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from agent.control.admin.v1 import operation
from agent.control.admin.v1.parts.figures import FiguresApi
from agent.control.asking.tree import Merged
from agent.figures.series import SeriesAsked, SeriesTold
from agent.figures.tally import Key, Tally


class Told:
    """Figures that are always the same."""

    def __init__(self, answer: SeriesTold) -> None:
        self._answer = answer

    def asked_series(self, last_s: int, step_s: int, by: Any) -> SeriesAsked:
        return SeriesAsked(1_700_000_000, last_s // step_s, step_s, by)

    async def ask_series(self, *_: Any) -> Merged[SeriesTold]:
        return Merged(self._answer, 3, {}, 0)


async def test_series_are_written_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole answer is, and says what it has not."""
    threads: list[int] = []
    written = operation._written

    def noted(told: Any) -> bytes:
        threads.append(threading.get_ident())
        return written(told)

    monkeypatch.setattr(operation, "_written", noted)
    told = SeriesTold([(Key("pets.p"), [Tally({2: 10})] * 2)], [10, 10], 4, 7, lacking=9)
    api = FiguresApi(Told(told), "here", lambda: 5)  # type: ignore[arg-type]
    (series,) = [each for each in api.operations() if each.path == "/figures/series"]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"last_s=20"}
    answer = await series.door().handler(Request(scope))
    found = msgspec.json.decode(bytes(answer.body))
    assert (found["total"], found["missed"], found["lacking"]) == (8, 4, 9)
    assert found["items"][0]["rate"] == [1.0, 1.0]
    assert threads and threads[0] != threading.get_ident()
