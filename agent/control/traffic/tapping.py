"""Live requests with how they were decided, for whoever taps: as `following`, but that more is noted of fewer requests.

Law: who may tap has been judged by the agent that he asked; what may be shown to him, by a worker and a `log` document.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from agent.control.asking.answering import Answering, Asker
from agent.control.traffic.streams import Streams
from agent.frames import Followed, Tap
from agent.requests.filter import RequestsTold
from agent.requests.taps import TAPS, TapsAsked, Wanted

MOST_TAPS: Final = 4
LOOK_S: Final = 1.0


class Tapping:
    """One agent's."""

    def __init__(self, host: str, answering: Answering) -> None:
        self._streams: Streams[Wanted] = Streams(host, MOST_TAPS, "taps are open")
        answering.register(TAPS, self._answer)

    def connect(self, publish: Callable[[list[Tap]], None]) -> None:
        """Where workers are told who taps what."""
        self._streams.connect(lambda wanted: publish([Tap(wanted)]))

    @property
    def taps(self) -> int:
        """How many are open."""
        return len(self._streams)

    @property
    def lost(self) -> int:
        """Requests that somebody tapped, and that there was no room for."""
        return self._streams.lost

    def frames(self) -> list[Tap]:
        """What a new worker has to know."""
        return [Tap(self._streams.wanted())] if self._streams else []

    def on_followed(self, told: Followed) -> None:
        """Of a worker."""
        self._streams.hear(told)

    async def run(self) -> None:
        """Forget who does not ask any more."""
        while True:
            await trio.sleep(LOOK_S)
            self._streams.forget(time.monotonic())

    async def _answer(self, asked: TapsAsked, _: Asker) -> RequestsTold:
        return self.read(asked, time.monotonic())

    def read(self, asked: TapsAsked, now: float) -> RequestsTold:
        """What has ended since. Raises Refusal."""
        return self._streams.read(asked.wanted, asked.places, asked.most_bytes, now)
