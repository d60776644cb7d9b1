"""One hook of a pattern, as long as this agent tells it: which event it is told when, and how often it is tried.

Laws
- Events of one condition are told one after the other. A hook that hangs holds up nobody but itself.
- What an event costs is that of the event, however many others wait (`hook_queue`).
"""

from __future__ import annotations

import random
import time
from datetime import datetime
from typing import Final, Protocol

import structlog
import trio

from agent.control.events.hook_queue import HookQueue
from agent.hooks.steps import Done, Failed
from policies.kinds.webhook.decide import Drop, Filter, Send, Wait
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Event
from policies.language.duration import seconds
from registry.claim import Claim

AT_ONCE_EACH: Final = 4
"""Deliveries under way for one hook."""
MAX_PAUSE_S: Final = 300.0
GIVEN_UP: Final = "given up: "
TOLD_TRIES: Final = (1, 3, 6)
"""Tries, and every tenth, after which etcd is told why."""
log = structlog.get_logger()


class Teller(Protocol):
    """Whose runner it is: `delivery.Delivery`, which says what each of these does."""

    waiting: dict[str, str]

    def events_of(self, pattern: str) -> list[Event]: ...

    def event(self, id: str) -> Event | None: ...

    def is_done(self, id: str, hook: str) -> bool: ...

    def count(self, hook: str, outcome: str) -> None: ...

    def failed(self, hook: str, event: Event, reason: str) -> None: ...

    async def attempt(self, event: Event, hook: Hook) -> Done | Failed: ...

    async def note(self, pattern: str, name: str, event: Event, outcome: str, claim: Claim) -> None: ...

    async def note_trying(self, event: Event, hook: str, reason: str, claim: Claim) -> None: ...


class HookRunner:
    """One hook of a pattern, as long as this agent tells it."""

    def __init__(self, delivery: Teller, pattern: str, name: str, hook: Hook, claim: Claim) -> None:
        self._delivery = delivery
        self._pattern = pattern
        self._name = name
        self._label = f"{pattern}/{name}"
        self._hook = hook
        self._audit = False
        self._claim = claim
        self._filter = Filter(hook)
        self._queue = HookQueue()
        self.sending: set[str] = set()
        """What is being delivered: a digest is what several events come to."""
        self._finished: set[str] = set()
        """Events that this hook is done with, though the outbox may not know yet."""
        self._wake = trio.Event()
        self.scope = trio.CancelScope()
        self.look_anew()

    def configure(self, hook: Hook, audit: bool) -> None:
        """The document, as it is now."""
        if hook != self._hook:
            self._hook = hook
            self._filter.configure(hook)
            self._queue.ask_all()
        self._audit = audit
        self._wake.set()

    def look_anew(self) -> None:
        """Other events may be this hook's."""
        events = {event.id: event for event in self._delivery.events_of(self._pattern)}
        self._finished &= events.keys()
        for id in self._queue.ids():
            if id not in events:
                self._queue.remove(id)
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
        self._finished.discard(id)
        self._queue.remove(id)

    async def run(self) -> None:
        """Offer every event to the filter, and tell what it lets through."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    for key in self._queue.next_keys(trio.current_time(), AT_ONCE_EACH):
                        await self._offer(key, nursery)
                        await trio.lowlevel.checkpoint()
                    with trio.move_on_at(self._queue.due):
                        await self._wake.wait()

    async def _offer(self, key: str, nursery: trio.Nursery) -> None:
        """What happened to a condition is told in its order."""
        for event in self._queue.row(key):
            if self._delivery.is_done(event.id, self._label):
                self._queue.remove(event.id)
                continue
            verdict = self._filter.offer(event, trio.current_time(), _age_s(event))
            if isinstance(verdict, Drop):
                self._delivery.count(self._label, "dropped")
                await self._done(event, f"not told: {verdict.reason}")
            elif isinstance(verdict, Wait):
                self._queue.wait(key, verdict.until)
                self._delivery.waiting[event.id] = f"{self._label}: {verdict.reason}"
            elif verdict.event.id in self.sending:
                continue
            elif len(self._queue.busy) < AT_ONCE_EACH:
                self._queue.begin(key)
                self.sending.add(verdict.event.id)
                nursery.start_soon(self._tell, verdict, event)
                return
            else:
                self._queue.hold(key)
                return

    async def _tell(self, send: Send, event: Event) -> None:
        """Try until it is done or given up."""
        outcome = await self._try(send.event)
        for id in send.covers:
            covered = self._delivery.event(id)
            if covered is not None and id != event.id:
                await self._done(covered, outcome)
        await self._done(event, outcome)
        self.sending.discard(send.event.id)
        self._queue.end(event.key)
        self._wake.set()

    async def _try(self, event: Event) -> str:
        number = 0
        while True:
            hook = self._hook
            if self._audit:
                log.info("a webhook in audit mode would be told", hook=self._label, id=event.id, type=event.name)
                return "audit: not told"
            number += 1
            found = await self._delivery.attempt(event, hook)
            if isinstance(found, Done):
                self._delivery.count(self._label, "delivered")
                log.info("told", hook=self._label, id=event.id, type=event.name, subject=event.subject)
                return found.what
            self._delivery.count(self._label, "failed")
            self._delivery.failed(self._label, event, found.reason)
            log.warning("a webhook was not told", hook=self._label, id=event.id, reason=found.reason, attempt=number)
            if not found.again or number >= hook.attempts or _age_s(event) > seconds(hook.give_up_after):
                self._delivery.count(self._label, "given up")
                return f"{GIVEN_UP}{found.reason}"
            pause_s = min(MAX_PAUSE_S, 2.0 ** min(number - 1, 12)) * (0.5 + 0.5 * random.random())
            self._delivery.waiting[event.id] = f"{self._label}: {found.reason}"
            if number in TOLD_TRIES or number % 10 == 0:
                await self._delivery.note_trying(event, self._label, f"{found.reason} (try {number})", self._claim)
            await trio.sleep(max(pause_s, found.after_s or 0.0))

    async def _done(self, event: Event, outcome: str) -> None:
        self._finished.add(event.id)
        self._queue.remove(event.id)
        self._delivery.waiting.pop(event.id, None)
        await self._delivery.note(self._pattern, self._name, event, outcome, self._claim)


def _age_s(event: Event) -> float:
    try:
        return max(0.0, time.time() - datetime.fromisoformat(event.time).timestamp())
    except ValueError:
        return 0.0
