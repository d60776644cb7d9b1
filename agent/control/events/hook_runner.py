"""One hook of a pattern, as long as this agent tells it: which event it is told when, and how often it is tried.

Laws
- Events of one condition are told one after the other. A hook that hangs holds up nobody but itself, and of its own
  conditions one that cannot be told no other: who waits for another try is in nobody's way.
- A limit that the service named is the hook's, all of it (`pace`), and does not use up tries.
- What an event costs is that of the event, however many others wait (`hook_queue`).
- What was told to have begun is told to have ended, by whoever tells: `opened` says what that is, `settling` finds it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import structlog
import trio
from msgspec import structs

from agent.control.events.hook_queue import HookQueue
from agent.control.events.outbox.endings import Ending
from agent.control.events.outbox.opened import Memory
from agent.control.events.pace import Pace
from agent.control.events.settling import EVERY_S, Settling
from agent.control.host.clock import now_text
from agent.hooks.steps import Done, Failed
from policies.kinds.webhook.decide import Drop, Filter, Send, Wait
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Effect, Event
from policies.language.duration import seconds
from registry.claim import Claim
from registry.records import Opened

MAX_PAUSE_S: Final = 300.0
GIVEN_UP: Final = "given up: "
TOLD_TRIES: Final = (1, 3, 6)
"""Tries, and every tenth, after which etcd is told why."""
log = structlog.get_logger()


class Outcome(NamedTuple):
    """What came of an event, of which the hook is done."""

    said: str
    opened: bool = False
    """Whether the condition is as the event says now, for the receiver."""
    place: str = ""
    id: str = ""


class Label(NamedTuple):
    """Which hook it is."""

    pattern: str
    name: str

    def __str__(self) -> str:
        return f"{self.pattern}/{self.name}"


class Teller(Protocol):
    """Whose runner it is: `delivery.Delivery`, which says what each of these does."""

    waiting: dict[str, str]
    slowed: dict[str, str]

    def events_of(self, pattern: str) -> list[Event]: ...

    def event(self, id: str) -> Event | None: ...

    def is_done(self, id: str, hook: str) -> bool: ...

    def opened(self, hook: str) -> Mapping[str, Memory]: ...

    def ending(self, subject: str, memory: Memory) -> Ending | None: ...

    def count(self, hook: str, outcome: str) -> None: ...

    def failed(self, hook: str, event: Event, reason: str) -> None: ...

    async def attempt(
        self, event: Event, label: Label, hook: Hook, claim: Claim, may: Callable[[], bool]
    ) -> Done | Failed | None: ...

    async def note(self, label: Label, event: Event, outcome: str, claim: Claim, news: Opened | bool) -> None: ...

    async def note_trying(self, event: Event, hook: str, reason: str, claim: Claim) -> None: ...

    async def forget(self, label: Label, subject: str, claim: Claim) -> None: ...


class HookRunner:
    """One hook of a pattern, as long as this agent tells it."""

    def __init__(self, delivery: Teller, label: Label, hook: Hook, claim: Claim, settling: Settling) -> None:
        self._delivery = delivery
        self._of = label
        self._label = str(label)
        self._hook = hook
        self._audit = False
        self._claim = claim
        self._filter = Filter(hook)
        self._queue = HookQueue()
        self._pace = Pace()
        self._settling = settling
        self._settle_at = 0.0
        self._own: dict[str, Event] = {}
        """Events of this runner's own making: endings that nobody told."""
        self._tries: dict[str, int] = {}
        self._again: dict[str, float] = {}
        """When what failed is tried again."""
        self.sending: set[str] = set()
        """What is being delivered: a digest is what several events come to."""
        self._finished: set[str] = set()
        """Events that this hook is done with, though the outbox may not know yet."""
        self._wake = trio.Event()
        self.scope = trio.CancelScope()
        for subject, memory in delivery.opened(self._label).items():
            if memory.record.state != "closed":
                self._filter.begun(settling.key_of(subject), memory.record.type)
        self.look_anew()

    def configure(self, hook: Hook, audit: bool) -> None:
        """The document, as it is now."""
        if hook != self._hook:
            self._hook = hook
            self._filter.configure(hook)
            self._again.clear()
            self._queue.ask_all()
        self._audit = audit
        self._wake.set()

    def look_anew(self) -> None:
        """Other events may be this hook's."""
        events = {event.id: event for event in self._delivery.events_of(self._of.pattern)}
        self._finished &= events.keys()
        for id in self._queue.ids():
            if id not in events and id not in self._own:
                self.forget(id)
        known = set(self._queue.ids())
        for id in events:
            if id not in known:
                self.add(id)

    def add(self, id: str) -> None:
        """An event to be told."""
        event = self._delivery.event(id)
        if event is None or event.id != id or id in self._finished:
            return
        if not self._delivery.is_done(id, self._label):
            self._queue.add(event)
            self._wake.set()

    def forget(self, id: str) -> None:
        """It is not in the outbox any more."""
        event = self._queue.event(id)
        if event is not None:
            self._filter.settled(event, told=False)
        self._finished.discard(id)
        self._tries.pop(id, None)
        self._again.pop(id, None)
        self._queue.remove(id)

    async def run(self) -> None:
        """Offer every event to the filter, and tell what it lets through."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    await self._settle(trio.current_time())
                    for key in self._queue.next_keys(trio.current_time(), self._hands()):
                        await self._offer(key, nursery)
                        await trio.lowlevel.checkpoint()
                    with trio.move_on_at(self._next()):
                        await self._wake.wait()

    def _hands(self) -> int:
        return self._pace.hands(trio.current_time())

    def _next(self) -> float:
        """When there may be something to do though nothing happens."""
        now, until = trio.current_time(), self._pace.until
        return min(self._queue.due, self._settle_at, until if until > now else float("inf"))

    async def _settle(self, now: float) -> None:
        """Look for what has ended without a word, and forget what was closed too long ago to be opened again."""
        if now < self._settle_at:
            return
        self._settle_at = now + EVERY_S
        opened = self._delivery.opened(self._label)
        for event in self._settling.find(now, opened, self._queue.has, self._delivery.ending):
            log.info("what a webhook opened is over, and nobody said so", hook=self._label, subject=event.subject)
            self._own[event.id] = event
            self._tries.pop(event.id, None)
            self._again.pop(event.id, None)
            self._queue.add(event)
        for subject, memory in list(opened.items()):
            closed_s = age_s(memory.record.at) if memory.record.state == "closed" else 0.0
            if closed_s > self._hook.reopen_s and not self._queue.has(self._settling.key_of(subject)):
                await self._delivery.forget(self._of, subject, self._claim)

    def _is_done(self, id: str) -> bool:
        return id not in self._own and self._delivery.is_done(id, self._label)

    async def _offer(self, key: str, nursery: trio.Nursery) -> None:
        """What happened to a condition is told in its order."""
        for event in self._queue.row(key):
            if self._is_done(event.id):
                self._queue.remove(event.id)
                continue
            now = trio.current_time()
            verdict = self._filter.offer(event, now, age_s(event.time))
            if isinstance(verdict, Drop):
                self._delivery.count(self._label, "dropped")
                await self._done(event, Outcome(f"not told: {verdict.reason}"))
            elif isinstance(verdict, Wait):
                self._queue.wait(key, verdict.until)
                self._delivery.waiting[event.id] = f"{self._label}: {verdict.reason}"
            elif verdict.event.id in self.sending:
                continue
            else:
                self._send(key, event, verdict, nursery)
                return

    def _send(self, key: str, event: Event, verdict: Send, nursery: trio.Nursery) -> None:
        again = self._again.get(verdict.event.id, 0.0)
        if trio.current_time() < again:
            self._queue.wait(key, again)
        elif len(self._queue.busy) < self._hands():
            self._queue.begin(key)
            self.sending.add(verdict.event.id)
            nursery.start_soon(self._tell, verdict, event)
        else:
            self._queue.hold(key)
            if self._label in self._delivery.slowed:
                self._delivery.waiting[event.id] = f"{self._label}: {self._delivery.slowed[self._label]}"

    async def _tell(self, send: Send, event: Event) -> None:
        """One try; what came of it is noted when it is done or given up."""
        outcome = await self._try(send.event)
        if outcome is not None:
            for id in send.covers:
                covered = self._delivery.event(id)
                if covered is not None and id != event.id:
                    await self._done(covered, outcome)
            await self._done(event, outcome)
            self._tries.pop(send.event.id, None)
            self._again.pop(send.event.id, None)
        self.sending.discard(send.event.id)
        self._queue.end(event.key)
        self._wake.set()

    async def _try(self, event: Event) -> Outcome | None:
        """None: another try may help, when its time has come."""
        if self._audit:
            log.info("a webhook in audit mode would be told", hook=self._label, id=event.id, type=event.name)
            return Outcome("audit: not told")
        # A service that takes one at a time may have named a limit to the one before.
        found = await self._delivery.attempt(event, self._of, self._hook, self._claim, lambda: self._hands() > 0)
        if found is None:
            return None
        if isinstance(found, Done):
            self._delivery.count(self._label, "delivered")
            self._pace.told()
            self._delivery.slowed.pop(self._label, None)
            log.info("told", hook=self._label, id=event.id, type=event.name, subject=event.subject)
            return Outcome(found.what, True, found.place, found.id)
        return await self._failed(event, found)

    async def _failed(self, event: Event, found: Failed) -> Outcome | None:
        number = self._tries.get(event.id, 0) + (found.asked and not found.limited)
        self._tries[event.id] = number
        self._delivery.count(self._label, "failed")
        self._delivery.failed(self._label, event, found.reason)
        log.warning("a webhook was not told", hook=self._label, id=event.id, reason=found.reason, attempt=number)
        hook = self._hook
        if not found.again or number >= hook.attempts or age_s(event.time) > seconds(hook.give_up_after):
            self._delivery.count(self._label, "given up")
            return Outcome(f"{GIVEN_UP}{found.reason}")
        pause_s = min(MAX_PAUSE_S, 2.0 ** min(max(number, 1) - 1, 12)) * (0.5 + 0.5 * random.random())
        if found.limited:
            slow_s = self._pace.limited(trio.current_time(), found.after_s)
            self._delivery.slowed[self._label] = f"its service named a limit, so nothing is sent for {slow_s:.0f} s"
            log.warning("a webhook's service named a limit", hook=self._label, pause_s=slow_s, reason=found.reason)
            pause_s = 0.0
        self._again[event.id] = trio.current_time() + max(pause_s, 0.0 if found.limited else found.after_s or 0.0)
        self._delivery.waiting[event.id] = f"{self._label}: {found.reason}"
        if number in TOLD_TRIES or number % 10 == 0:
            await self._delivery.note_trying(event, self._label, f"{found.reason} (try {number})", self._claim)
        return None

    async def _done(self, event: Event, outcome: Outcome) -> None:
        if event.id not in self._own:
            self._finished.add(event.id)
        self._queue.remove(event.id)
        self._filter.settled(event, told=True)
        self._delivery.waiting.pop(event.id, None)
        await self._delivery.note(self._of, event, outcome.said, self._claim, self._news(event, outcome))
        self._own.pop(event.id, None)

    def _news(self, event: Event, outcome: Outcome) -> Opened | bool:
        """What is to be remembered of the condition from now on; True: as before, False: nothing."""
        memory = self._delivery.opened(self._label).get(event.subject)
        if not outcome.opened or event.effect is Effect.TELLS:
            return True
        if event.effect is Effect.OPENS:
            if not self._hook.remembers(event):
                return True
            asked = memory.record.asked if memory is not None else 0
            return Opened(event=event.id, type=event.type, service=event.service, at=now_text(),
                          place=outcome.place, id=outcome.id, asked=asked)  # fmt: skip
        if memory is None or not outcome.id or not self._hook.reopen_s:
            return False
        return structs.replace(memory.record, state="closed", at=now_text(), place=outcome.place, id=outcome.id)


def age_s(time_text: str) -> float:
    """How long ago that was."""
    try:
        return max(0.0, time.time() - datetime.fromisoformat(time_text).timestamp())
    except ValueError:
        return 0.0
