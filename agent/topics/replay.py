"""Stored requests, sent to their services through the agent of this host: at a rate, at least once, marked as replays.

Laws
- A request is done when its service has answered, and not with a failure. What the mesh itself answers, a 5xx, 408, 425
  and 429 are no such answer: it is tried again, as patiently as is asked for, and then left in the topic.
- Replays are marked (`x-shoal-replay: ID`): an overloaded service's agent refuses them rather than store them again.
- What is no stored request is left where it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import httpcore
import trio

from agent.topics.broker import Broker, Message, Receiver
from agent.topics.record import Stored, read_record

MAX_AT_A_TIME: Final = 16
PATIENCE_S: Final = 1.0
"""For another message, before the topic counts as empty."""
_NOT_YET: Final = frozenset((408, 425, 429))
_REMEMBERED: Final = 10_000


class Outcome(NamedTuple):
    """What became of one."""

    stored: Stored | str
    """Or why it is none."""
    done: bool
    said: str
    """`200`, or what was wrong."""


class Totals(NamedTuple):
    """What became of all."""

    done: int = 0
    left: int = 0


class Replay:
    """One run."""

    def __init__(
        self,
        broker: Broker,
        proxy: tuple[str, int],
        on_outcome: Callable[[Outcome], None],
        *,
        rate: float,
        most: int = 0,
        attempts: int = 5,
        looking: bool = False,
        follow: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`proxy` is where the agent listens. `rate`: requests a second. `most` 0: all there are. `looking`: nothing
        is sent, nothing settled."""
        self._broker = broker
        self._proxy = proxy
        self._on_outcome = on_outcome
        self._rate = rate
        self._most = most
        self._attempts = attempts
        self._looking = looking
        self._follow = follow
        self._patience_s = patience_s
        self._done_ids: dict[str, None] = {}
        self._done = 0
        self._left = 0

    async def run(self) -> Totals:
        """Raises BrokerError, and httpcore's errors when there is no agent."""
        async with (
            self._broker.receiving(looking=self._looking) as receiver,
            httpcore.AsyncConnectionPool(max_connections=MAX_AT_A_TIME, retries=0) as pool,
        ):
            free = trio.Semaphore(MAX_AT_A_TIME)
            settling = trio.Lock()
            async with trio.open_nursery() as nursery:
                taken = 0
                due = time.monotonic()
                while not self._most or taken < self._most:
                    async with settling:  # a connection has one reader and writer at a time
                        message = await receiver.receive(self._patience_s if not self._follow else 0.2)
                    if message is None:
                        if self._follow:
                            await trio.sleep(0.1)
                            continue
                        break
                    taken += 1
                    if self._looking:
                        self._tell(Outcome(read_record(message.record), False, "waits"))
                        continue
                    await trio.sleep(max(0.0, due - time.monotonic()))
                    due = max(due, time.monotonic()) + 1 / self._rate
                    await free.acquire()
                    nursery.start_soon(self._one, message, receiver, pool, free, settling)
        return Totals(self._done, self._left)

    async def _one(
        self,
        message: Message,
        receiver: Receiver,
        pool: httpcore.AsyncConnectionPool,
        free: trio.Semaphore,
        settling: trio.Lock,
    ) -> None:
        try:
            stored = read_record(message.record)
            if isinstance(stored, str):
                outcome = Outcome(stored, False, stored)
            elif stored.id in self._done_ids:
                outcome = Outcome(stored, True, "twice in the topic; sent once")
            else:
                outcome = await self._send(stored, pool)
            async with settling:
                await receiver.settle(message, done=outcome.done)
            if outcome.done and isinstance(stored, Stored):
                self._done_ids[stored.id] = None
                while len(self._done_ids) > _REMEMBERED:
                    del self._done_ids[next(iter(self._done_ids))]
            self._tell(outcome)
        finally:
            free.release()

    def _tell(self, outcome: Outcome) -> None:
        self._done += outcome.done
        self._left += not outcome.done
        self._on_outcome(outcome)

    async def _send(self, stored: Stored, pool: httpcore.AsyncConnectionPool) -> Outcome:
        said = ""
        for attempt in range(self._attempts):
            try:
                status, headers = await self._ask(stored, pool)
            except ValueError as error:
                return Outcome(stored, False, str(error))
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                said, after_s = f"no answer: {error!r}"[:200], 0.0
            else:
                own = headers.get(b"x-shoal-policy")
                said = f"{status}"
                if own is not None:
                    said += f" by the mesh: {headers.get(b'x-shoal-reason', own).decode('latin-1')}"
                elif status < 500 and status not in _NOT_YET:
                    return Outcome(stored, True, said)
                told = headers.get(b"retry-after", b"")
                after_s = float(told) if told.isdigit() and len(told) < 5 else 0.0
            if attempt + 1 < self._attempts:
                await trio.sleep(min(60.0, max(after_s, 0.5 * 2**attempt)))
        return Outcome(stored, False, said)

    async def _ask(self, stored: Stored, pool: httpcore.AsyncConnectionPool) -> tuple[int, dict[bytes, bytes]]:
        """Raises ValueError for what cannot be sent."""
        body = stored.content
        headers = [(name.encode(), value.encode("latin-1")) for name, value in stored.headers]
        headers = [(name, value) for name, value in headers if name not in (b"host", b"content-length")]
        hosts = [value for name, value in stored.headers if name == "host"]
        headers.insert(0, (b"host", (hosts[0] if hosts else stored.service).encode("latin-1")))
        if body or stored.method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
            headers.append((b"content-length", b"%d" % len(body)))
        headers.append((b"x-shoal-replay", stored.id.encode()))
        host, port = self._proxy
        url = httpcore.URL(scheme=b"http", host=host.encode(), port=port, target=stored.target.encode("latin-1"))
        timeouts = {"connect": 5.0, "read": 300.0, "write": 60.0, "pool": 60.0}
        async with pool.stream(
            stored.method, url, headers=headers, content=body, extensions={"timeout": timeouts}
        ) as answer:
            async for _ in answer.aiter_stream():
                pass
            return answer.status, {name.lower(): value for name, value in answer.headers}
