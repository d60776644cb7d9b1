"""From a spool to its broker: what is on disk goes out, and is given up here when the broker has it.

Laws
- Nothing leaves the spool but by the broker's word that it has it. No word within ANSWER_S: a new connection, and what
  was under way is sent again. Twice is possible, never is not; each message has its id.
- What the broker refuses waits, longer each time, and holds up nothing else until MAX_FLYING of it do.
- A broker that is away is asked again with a back-off, for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

import structlog
import trio

from agent.topics.broker import ANSWER_S, Broker, BrokerError, Sender
from agent.topics.record import Stored, read_record
from agent.topics.spool import Item, Spool
from registry.backoff import Backoff

MAX_FLYING: Final = 64
MAX_UNASKED: Final = 1000
"""Verdicts of one connection on nothing that is under way: some come late, and a flood is somebody's doing."""
AGAIN_MIN_S: Final = 1.0
AGAIN_MAX_S: Final = 60.0
log = structlog.get_logger()


class _Flying:
    """A record that the broker was sent, or will be again."""

    __slots__ = ("again_at", "item", "refusals", "sent_at")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.sent_at = 0.0
        """0: it is not under way."""
        self.again_at = 0.0
        self.refusals = 0


class Relay:
    """One spool's."""

    def __init__(
        self,
        url: str,
        spool: Spool,
        broker: Callable[[], Broker],
        *,
        answer_s: float = ANSWER_S,
        again_min_s: float = AGAIN_MIN_S,
        clean: Callable[[str], str] = str,
    ) -> None:
        """`broker` is asked anew for each connection, and may raise BrokerError: who we are may have changed.

        `clean` takes out of a broker's words what is for nobody's eyes.
        """
        self._clean = clean
        self.url = url
        self.spool = spool
        self._broker = broker
        self._answer_s = answer_s
        self._again_min_s = again_min_s
        self._flying: dict[int, _Flying] = {}
        self._number = 0
        self.problem = ""
        """Why nothing goes out; empty: it does, or there is nothing."""
        self.warning = ""
        """What is wrong with the broker's own care."""
        self.refused = ""
        """What it said of the last that it refused."""
        self.delivered = 0
        self._stirred = trio.Event()

    def stir(self) -> None:
        """There is something new: in the spool, or from the broker."""
        self._stirred.set()
        self._stirred = trio.Event()

    def as_state(self) -> dict[str, Any]:
        """For /state and `shoal status`."""
        return {
            "url": self.url,
            "waiting": self.spool.waiting,
            "bytes": self.spool.size,
            "delivered": self.delivered,
            "problem": self.problem,
            "broker_refused": self.refused,
            "warning": self.warning,
        }

    async def run(self) -> None:
        """Until cancelled."""
        backoff = Backoff(0.1, 10.0)
        while True:
            try:
                while not self._flying and not self._take():
                    await self._stirred.wait()
                async with self._broker().sending() as sender:
                    self.warning = sender.warning
                    if self.warning:
                        log.warning("a topic's broker may lose what it has", topic=self.url, reason=self.warning)
                    await self._feed(sender, backoff)
            except* BrokerError as group:
                self._failed(_reason(group))
            except* OSError as group:
                self._failed(f"what is stored cannot be read now: {_reason(group)}")
            except* Exception as group:
                log.exception("a relay failed", topic=self.url)
                self._failed(f"an internal error, see the agent's log: {_reason(group)}")
            await trio.sleep(backoff.next_s())

    def _failed(self, reason: str) -> None:
        reason = self._clean(reason)
        if reason != self.problem:
            log.warning("a topic's broker does not take what is stored", topic=self.url, reason=reason)
        self.problem = reason
        for flying in self._flying.values():
            flying.sent_at = 0.0

    def _take(self) -> bool:
        """Another record from the spool, if there is one and room for it."""
        if len(self._flying) >= MAX_FLYING:
            return False
        item = self.spool.read()
        if item is None:
            return False
        self._number += 1
        self._flying[self._number] = _Flying(item)
        return True

    async def _feed(self, sender: Sender, backoff: Backoff) -> None:
        """Raises BrokerError, in a group."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, sender, backoff)
            nursery.start_soon(self._watch)
            while True:
                while self._take():
                    pass
                now = time.monotonic()
                due = [
                    (number, flying)
                    for number, flying in self._flying.items()
                    if not flying.sent_at and flying.again_at <= now
                ]
                for number, flying in due:
                    flying.sent_at = time.monotonic()
                    await sender.send(number, flying.item.record, _id_of(flying.item.record))
                if not due:
                    await self._wait(min((f.again_at for f in self._flying.values() if not f.sent_at), default=None))

    async def _wait(self, until: float | None) -> None:
        """For something new, or for the time to send something again."""
        stirred = self._stirred
        with trio.move_on_after(max(0.01, until - time.monotonic()) if until is not None else math.inf):
            await stirred.wait()

    async def _watch(self) -> None:
        while True:
            await trio.sleep(self._answer_s / 10)
            oldest = min((flying.sent_at for flying in self._flying.values() if flying.sent_at), default=None)
            if oldest is not None and time.monotonic() - oldest > self._answer_s:
                raise BrokerError(f"no word from the broker within {self._answer_s:g} s")

    async def _listen(self, sender: Sender, backoff: Backoff) -> None:
        unasked = 0
        async with aclosing(sender.verdicts()) as verdicts:  # type: ignore[type-var]
            async for verdict in verdicts:
                flying = self._flying.get(verdict.number)
                if flying is None:
                    unasked += 1
                    if unasked > MAX_UNASKED:
                        raise BrokerError("what answers speaks of what it was not sent")
                    continue
                if verdict.problem:
                    self._refuse(flying, verdict.problem)
                    continue
                self.problem = ""
                backoff.reset()
                del self._flying[verdict.number]
                if not any(other.refusals for other in self._flying.values()):
                    self.refused = ""
                self.spool.done([flying.item])
                self.delivered += 1
                self.stir()

    def _refuse(self, flying: _Flying, problem: str) -> None:
        problem = self._clean(problem)
        if problem != self.refused:
            log.warning("a topic's broker refused a request", topic=self.url, reason=problem)
        self.refused = problem
        flying.sent_at = 0.0
        flying.again_at = time.monotonic() + min(AGAIN_MAX_S, self._again_min_s * 2**flying.refusals)
        flying.refusals += 1
        self.stir()


def _id_of(record: bytes) -> str:
    stored = read_record(record)
    return stored.id if isinstance(stored, Stored) else ""


def _reason(group: BaseExceptionGroup[Exception]) -> str:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return str(found)
