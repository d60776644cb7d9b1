"""Keeps the figures of this agent: windows of 10 s, and of 2 s for services that are scaled.

Laws
- Windows end when the clock of the host stands at a multiple of their length, so that those of all hosts go together.
- What is counted is looked at where a window ends, and so is what is under way; where services are scaled that is
  looked at every FINE_S, and a window has the mean. Workers are asked nothing in between for who scales nothing.
- A reload takes the windows along (`kept`), and what was counted since the last one: it stands in the one under way.
- A worker that was replaced begins from nothing; nothing is ever counted below that. A window that was not looked at in
  time is missed: what came in it stands in the next, and who asks is told how many there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
import structlog
import trio

from agent.control.figures.counted import Loads, edges
from agent.control.figures.cpu import Cpu
from agent.control.instances.registration import Identity
from agent.figures.packed import Kept, Windows
from agent.figures.questions import FINE_S, KEPT_S, WINDOW_S
from agent.figures.tally import CPU, Key, Rows, Tally, add
from agent.settings.address import Address
from policies.language.names import matches

KEPT_FINE_S: Final = 120
log = structlog.get_logger()


class Workers(Protocol):
    """Of a `Fleet`, what is asked here."""

    async def metrics(self) -> list[dict[str, Any]]:
        """What all have counted by now."""
        ...

    def counted(self) -> list[dict[str, Any]]:
        """The same, as it was heard last."""
        ...

    async def loads(self) -> dict[int, dict[str, Any]]:
        """What is under way, by process."""
        ...

    def pids(self) -> Iterable[int]:
        """Of those that live."""
        ...


def nothing() -> Mapping[Identity, Address]:
    """No instances are here."""
    return {}


class Sampler:
    """Of one agent."""

    def __init__(
        self,
        workers: Workers,
        *,
        places: Callable[[], Mapping[Identity, Address]] = nothing,
        scaled: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.time,
        cpu: Cpu | None = None,
    ) -> None:
        """`places`: where instances of this host listen. `scaled`: names and patterns of services that need short
        windows. `clock`: Unix time, s."""
        self._workers = workers
        self._places = places
        self._scaled = scaled
        self._clock = clock
        self._cpu = cpu or Cpu()
        self._loads = Loads()
        self._used: dict[Identity, int] = {}
        self._before: Rows | None = None
        self._fine_before: Rows | None = None
        self._since: Rows = {}
        """Of instances and what is under way, since the last window."""
        self._looks = 0
        self.windows = Windows(WINDOW_S, KEPT_S // WINDOW_S)
        self.fine = Windows(FINE_S, KEPT_FINE_S // FINE_S)
        self.late = 0
        """Looks that were not made in time."""

    @property
    def folded(self) -> int:
        """Rows that had no room."""
        return self.windows.folded + self.fine.folded

    def kept(self) -> bytes:
        """For the process that is executed next; nothing is looked at any more. What workers are heard to have counted
        since is counted there, as they go on from what was heard of them here."""
        rows = _since(edges(self._workers.counted()), self._before)
        if rows:
            self.windows.add(int(self._clock()) // WINDOW_S * WINDOW_S + WINDOW_S, rows)
        return msgspec.msgpack.encode([self.windows.kept(), self.fine.kept()])

    def take_over(self, kept: bytes) -> None:
        """What the process before left; of another version it may make no sense, and there is nothing then."""
        try:
            windows, fine = msgspec.msgpack.decode(kept, type=tuple[Kept, Kept]) if kept else (None, None)
        except msgspec.DecodeError as error:
            log.warning("figures of the process before are not taken over", reason=str(error))
            return
        if windows is not None and fine is not None:
            self.windows.take_over(windows)
            self.fine.take_over(fine)

    async def run(self) -> None:
        """Sample, until cancelled."""
        self._before = edges(self._workers.counted())
        last = int(self._clock()) // FINE_S * FINE_S
        while True:
            now = self._clock()
            if now < last:  # the clock was set back
                last = int(now) // FINE_S * FINE_S
            elif now < last + FINE_S:
                await trio.sleep(last + FINE_S - now)
            else:
                due = int(now) // FINE_S * FINE_S
                self.late += (due - last) // FINE_S - 1
                try:
                    await self.look(due, ended=due // WINDOW_S > last // WINDOW_S)
                except Exception:  # figures are no reason to end an agent
                    log.exception("figures were not taken")
                last = due

    async def look(self, end: int, *, ended: bool) -> None:
        """At a unix time (s). `ended`: a window of WINDOW_S has."""
        patterns = self._scaled()
        if not patterns:
            self._fine_before = None
            if not ended:
                return
        now = self._loads.look(await self._workers.loads(), self._workers.pids())
        for key, tally in now.items():
            add(self._since, key, tally)
        self._looks += 1
        counted = edges(await self._workers.metrics())
        if ended:
            places = self._places()
            self._used = await trio.to_thread.run_sync(self._cpu.look, places, trio.current_time()) if places else {}
            rows = _since(counted, self._before)
            for key, tally in self._since.items():
                add(rows, key, tally.mean(self._looks))
            self.windows.add(end // WINDOW_S * WINDOW_S, self._with_processors(rows))
            self._before, self._since, self._looks = counted, {}, 0
        if patterns:
            rows = _since(counted, self._fine_before)
            for key, tally in now.items():
                add(rows, key, tally)
            rows = {
                k: t for k, t in self._with_processors(rows).items() if any(matches(p, k.service) for p in patterns)
            }
            if self._fine_before is not None:
                self.fine.add(end, rows)
            self._fine_before = counted

    def _with_processors(self, rows: Rows) -> Rows:
        for (service, id), used in self._used.items():
            add(rows, Key(service, instance=id), Tally({}, 0, {}, {CPU: used}))
            add(rows, Key(service), Tally({}, 0, {}, {CPU: used}))
        return rows


def _since(now: Rows, before: Rows | None) -> Rows:
    """What came; before the first look nobody knows how much of it is new, and it counts as old."""
    if before is None:
        return {}
    found = {key: tally.less(before.get(key)) for key, tally in now.items()}
    return {key: tally for key, tally in found.items() if tally}
