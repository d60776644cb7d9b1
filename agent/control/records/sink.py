"""Where records go: a place with a queue, and a task of its own that empties it.

Laws
- Who offers never waits, and never hears of it: a sink that does not keep up, hangs or is not there costs records,
  which are counted by kind. Never the agent, and never a request.
- What is counted as delivered was taken over by the place, as far as its protocol tells; all else is counted as lost.
- At the end what still waits has FINISH_S.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import structlog
import trio

from agent.control.records.waiting import Batch, Kind, Waiting
from agent.process.finishing import Finishing
from agent.requests.format import Format

FINISH_S: Final = 1.0
TAKE_BYTES: Final = 1024 * 1024
"""Of lines that are delivered at a time."""
AGAIN_S: Final = 1.0
"""After a mistake of the sink's own."""
MAX_REASON: Final = 300
log = structlog.get_logger()


class Sink:
    """One place."""

    def __init__(self, name: str, kinds: Collection[Kind], most_bytes: int, format: Format | None = None) -> None:
        """`format`: of access records; None: JSON, as they come."""
        self.name = name
        self.format = format
        self.kinds = frozenset(kinds)
        self.waiting = Waiting(most_bytes)
        self.trouble = ""
        """Why nothing is delivered, or something was lost, at last; empty: all is well."""
        self._held: Counter[Kind] = Counter()
        """Records of which it is not known yet what has come."""
        self._given = trio.Event()
        self._finishing = Finishing(FINISH_S, self.wake)

    def offer(self, batch: Batch) -> None:
        """Have lines delivered; one whose kind this sink does not take is passed over."""
        if batch.kind in self.kinds:
            if self.waiting.put(batch):
                self._given.set()
            else:
                self.lost_for("it does not keep up")

    def reopen(self) -> None:
        """What stands behind it may have been moved away; most sinks have nothing to do then."""

    def wake(self) -> None:
        """There is something to do besides lines."""
        self._given.set()

    async def run(self) -> None:
        """Deliver until cancelled, and then what is still there."""
        await self._finishing.run(self._work)

    @property
    def ending(self) -> bool:
        """Whether the agent ends."""
        return self._finishing.ending

    async def _work(self) -> None:
        with self._finishing.patience:
            await self._guarded(self.begin)
            while not (self.ending and not self.waiting):
                await self._guarded(self._take)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FINISH_S):
            await self._guarded(self.end)
        self.waiting.lose_all()

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """One sink must not end the agent, nor itself."""
        try:
            await work()
        except Exception as error:
            log.exception("a sink of records has failed", sink=self.name)
            self.failed(f"it failed: {type(error).__name__}: {error}")
            await trio.sleep(AGAIN_S)

    async def _take(self) -> None:
        await self.settle()
        if not self.waiting:
            self._given = trio.Event()
            if not self.ending:
                await self._given.wait()
                await self.gather()
            return
        batches = self.waiting.take(TAKE_BYTES)
        self._held = Counter()
        for batch in batches:
            self._held[batch.kind] += batch.records
        try:
            await self.deliver(batches)
        finally:  # the agent ends, or the sink failed
            self.waiting.lost.update(self._held)

    def account(self, kind: Kind, delivered: int, lost: int = 0) -> None:
        """What has come of so many records of a kind that `deliver` was given; of the others it is that they are
        lost."""
        self._held[kind] -= delivered + lost
        self.waiting.delivered[kind] += delivered
        self.waiting.lost[kind] += lost

    def failed(self, reason: str) -> None:
        """Nothing is delivered now."""
        if not self.trouble:
            log.error("records are not delivered", sink=self.name, reason=reason)
        self.trouble = reason[:MAX_REASON]

    def lost_for(self, reason: str) -> None:
        """Some are lost; told when it begins."""
        if not self.trouble:
            log.error("records are lost", sink=self.name, reason=reason)
        self.trouble = reason[:MAX_REASON]

    def well(self) -> None:
        """It takes what it is given."""
        if self.trouble:
            log.info("records are delivered again", sink=self.name)
        self.trouble = ""

    async def begin(self) -> None:
        """Before the first line."""

    async def settle(self) -> None:
        """Before each turn."""

    async def gather(self) -> None:
        """Something has come after a while: how long to wait for more."""

    async def deliver(self, batches: list[Batch]) -> None:
        """Deliver them, for as long as it takes, and say what has come of each (`account`)."""
        raise NotImplementedError

    async def end(self) -> None:
        """After the last line."""
