"""Webhooks are told what happened: once, in order, by one agent at a time, until it is done or given up.

Laws
- One agent tells the hooks of a pattern: who holds `claims/<pattern>` on its lease. What it does in etcd is fenced by
  that claim, so an agent that was paused and comes back changes nothing.
- An event is deleted from `events/` in the transaction that puts `told/`, when every hook is done with it. What a hook
  is done with is noted before, so that a successor does not tell it twice.
- Events of one condition are told to a hook one after the other. A hook that hangs holds up nobody but itself.
- What is given up stands in `undelivered/` until somebody deletes or replays it.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog
import trio

from agent.control.events.hook_http import HookClient
from agent.control.events.outbox import Documents, Outbox, rank
from agent.control.host.clock import now_text
from agent.hooks.steps import Done, Failed
from policies.kinds.webhook.decide import Drop, Filter, Send, Wait
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Event
from policies.language.duration import seconds
from registry.backoff import Backoff
from registry.claim import Claim, give_up, take
from registry.keys import Keys, Room
from registry.lease import Holder
from registry.records import Claimed, OutboxEntry, encode
from registry.store import Compare, Delete, Put, Store, StoreError

AT_ONCE: Final = 16
AT_ONCE_EACH: Final = 4
"""Deliveries under way, in all and for one hook."""
STEP_S: Final = 2.0
"""How much longer each agent leaves a claim free than the one ranked before it."""
MAX_PAUSE_S: Final = 300.0
TOLD_S: Final = 25 * 3600
TOLD_FOR_S: Final = 3600
"""For so long events are put on the same lease."""
KEPT_FAILURES: Final = 20
GIVEN_UP: Final = "given up: "
TOLD_TRIES: Final = (1, 3, 6)
"""Tries, and every tenth, after which etcd is told why."""
log = structlog.get_logger()


class Delivery:
    """This agent's part in telling."""

    def __init__(
        self, outbox: Outbox, hosts: Callable[[], Iterable[str]], store: Store, keys: Keys, holder: Holder, host: str,
        client: HookClient,
    ) -> None:  # fmt: skip
        self._outbox = outbox
        self._hosts = hosts
        self._store = store
        self._keys = keys
        self._holder = holder
        self._host = host
        self.client = client
        self._changed = trio.Event()
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._told_lease = (0, -1.0)
        self.outcomes: dict[tuple[str, str], int] = {}
        """By hook and outcome (`delivered`, `failed`, `given up`, `dropped`): how often."""
        self.failures: deque[dict[str, str]] = deque(maxlen=KEPT_FAILURES)
        self.waiting: dict[str, str] = {}
        """Events that some hook has not been told yet, and why."""

    def changed(self) -> None:
        """The outbox has changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Tell, until cancelled."""
        tasks: dict[str, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                wanted = self._outbox.documents()
                for pattern in tasks.keys() - wanted.keys():
                    tasks.pop(pattern).cancel()
                for pattern in wanted.keys() - tasks.keys():
                    tasks[pattern] = scope = trio.CancelScope()
                    nursery.start_soon(self._pattern, pattern, scope)
                await self._drop_orphans()
                await self._changed.wait()

    async def _drop_orphans(self) -> None:
        """Events that no webhook is left for."""
        for id, standing in list(self._outbox.events.items()):
            event = standing.event
            unwanted = self._outbox.pattern_of(event.service, event.subject) is None
            if unwanted and rank(id, self._host, self._hosts()) == 0:
                await self._quietly([Delete(self._keys.event(id))])

    async def _quietly(self, operations: list[Put | Delete]) -> None:
        try:
            await self._store.transact([], operations)
        except StoreError as error:
            log.debug("etcd did not take it", error=str(error))

    # Who tells.

    async def _pattern(self, pattern: str, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                claim = await self._claim(pattern)
                log.info("this agent tells the webhooks", pattern=pattern)
                lost = await self._tell(pattern, claim)
                log.info("another agent may tell the webhooks", pattern=pattern, reason=lost)

    async def _claim(self, pattern: str) -> Claim:
        backoff = Backoff(0.2, 5.0)
        while True:
            lease, holder = self._holder.lease, self._outbox.claims.get(pattern)
            if not lease or holder not in (None, self._host):
                await self._pause(1.0)
                continue
            if holder is None:
                await trio.sleep(STEP_S * rank(pattern, self._host, self._hosts()))
                if self._outbox.claims.get(pattern, self._host) != self._host:
                    continue
            try:
                claim = await self._take(self._keys.claim(pattern), lease)
            except StoreError:
                await trio.sleep(backoff.next_s())
                continue
            if claim is not None:
                return claim
            await self._pause(1.0)

    async def _take(self, key: str, lease: int) -> Claim | None:
        """Ours; also when it was so before this process was executed anew."""
        standing = await self._store.get(key)
        if standing is not None and standing.lease == lease:
            return Claim(key, standing.create_revision)
        return await take(self._store, key, encode(Claimed(agent=self._host, at=now_text())), lease)

    async def _pause(self, most_s: float) -> None:
        with trio.move_on_after(most_s):
            await self._changed.wait()

    async def _tell(self, pattern: str, claim: Claim) -> str:
        """As long as the claim is ours; returns why it is not any more."""
        lease = self._holder.lease
        reason = ""
        async with trio.open_nursery() as nursery:
            runners: dict[str, _Runner] = {}
            while not reason:
                documents = self._outbox.documents().get(pattern)
                if documents is None:
                    reason = "the document is gone"
                elif self._holder.lease != lease or self._outbox.claims.get(pattern, self._host) != self._host:
                    reason = "the lease ran out"
                else:
                    self._keep_runners(pattern, documents, runners, claim, nursery)
                    await self._finish_rest(pattern, documents, claim)
                    await self._pause(1.0)
            nursery.cancel_scope.cancel()
        if self._holder.lease == lease:
            try:
                await give_up(self._store, claim)
            except StoreError as error:
                log.debug("a claim is left to its lease", error=str(error))
        return reason

    def _keep_runners(
        self,
        pattern: str,
        documents: Documents,
        runners: dict[str, _Runner],
        claim: Claim,
        nursery: trio.Nursery,
    ) -> None:
        for name in runners.keys() - documents.hooks.keys():
            runners.pop(name).scope.cancel()
        for name, hook in documents.hooks.items():
            runner = runners.get(name)
            if runner is None:
                runner = runners[name] = _Runner(self, pattern, name, hook, claim)
                nursery.start_soon(runner.run)
            runner.configure(hook, documents.audit)

    async def _finish_rest(self, pattern: str, documents: Documents, claim: Claim) -> None:
        """Events that only a hook which is gone had not been told."""
        labels = {f"{pattern}/{name}" for name in documents.hooks}
        for event in self.events_of(pattern):
            standing = self._outbox.events.get(event.id)
            if standing is not None and labels <= standing.done.keys():
                try:
                    await self._finish(pattern, event, {}, claim, documents)
                except StoreError as error:
                    log.debug("etcd did not take it", error=str(error))

    def _is_of(self, event: Event, pattern: str) -> bool:
        return self._outbox.pattern_of(event.service, event.subject) == pattern

    def events_of(self, pattern: str) -> list[Event]:
        """Those that are still to be told, in the order in which they came."""
        return [s.event for s in self._outbox.events.values() if self._is_of(s.event, pattern)]

    def is_done(self, id: str, hook: str) -> bool:
        """Whether a hook is done with an event."""
        standing = self._outbox.events.get(id)
        return standing is None or hook in standing.done

    # What came of it.

    async def note(self, pattern: str, name: str, event: Event, outcome: str, claim: Claim) -> None:
        """A hook is done with an event. Retried until etcd takes it; not done again when the claim is not ours."""
        hook = f"{pattern}/{name}"
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                standing = self._outbox.events.get(event.id)
                if standing is None:
                    return
                documents = self._outbox.documents().get(pattern)
                if documents is None or await self._finish(pattern, event, {hook: outcome}, claim, documents):
                    return
            except StoreError:
                pass
            await trio.sleep(backoff.next_s())

    async def _finish(
        self, pattern: str, event: Event, news: dict[str, str], claim: Claim, documents: Documents
    ) -> bool:
        """Write down what came of an event; delete it when every hook is done. False: it has changed meanwhile."""
        standing = self._outbox.events.get(event.id)
        if standing is None:
            return True
        done = {**standing.done, **news}
        key = self._keys.event(event.id)
        trying = {hook: reason for hook, reason in standing.trying.items() if hook not in done}
        record = encode(OutboxEntry(event=msgspec.to_builtins(event), done=done, trying=trying, at=now_text()))
        operations: list[Put | Delete] = [Put(key, record)]
        if all(f"{pattern}/{name}" in done for name in documents.hooks):
            operations = [Delete(key), Put(self._keys.event(event.id, Room.TOLD), record, await self._lease())]
        if any(outcome.startswith(GIVEN_UP) for outcome in news.values()):
            lost = {hook: outcome for hook, outcome in done.items() if outcome.startswith(GIVEN_UP)}
            dead = encode(OutboxEntry(event=msgspec.to_builtins(event), done=lost, at=now_text()))
            operations.append(Put(self._keys.event(event.id, Room.UNDELIVERED), dead))
        fences = [Compare(claim.key, create_revision=claim.fence), Compare(key, mod_revision=standing.revision)]
        return (await self._store.transact(fences, operations)).succeeded

    async def note_trying(self, event: Event, hook: str, reason: str, claim: Claim) -> None:
        """Have it stand in etcd why a hook was not told yet, for people; no matter if that fails."""
        standing = self._outbox.events.get(event.id)
        if standing is None:
            return
        trying = {**standing.trying, hook: reason}
        record = OutboxEntry(event=msgspec.to_builtins(event), done=standing.done, trying=trying, at=now_text())
        key = self._keys.event(event.id)
        fences = [Compare(claim.key, create_revision=claim.fence), Compare(key, mod_revision=standing.revision)]
        try:
            await self._store.transact(fences, [Put(key, encode(record))])
        except StoreError as error:
            log.debug("etcd did not take it", error=str(error))

    async def _lease(self) -> int:
        """The lease of what was told lately: nobody renews it."""
        lease, until = self._told_lease
        if time.monotonic() > until:
            lease = await self._store.grant(TOLD_S)
            self._told_lease = (lease, time.monotonic() + TOLD_FOR_S)
        return lease

    def count(self, hook: str, outcome: str) -> None:
        """For metrics."""
        self.outcomes[hook, outcome] = self.outcomes.get((hook, outcome), 0) + 1

    def failed(self, hook: str, event: Event, reason: str) -> None:
        """For people."""
        self.failures.append({"hook": hook, "event": event.id, "type": event.name, "reason": reason, "at": now_text()})

    async def attempt(self, event: Event, hook: Hook) -> Done | Failed:
        """One try at a hook, when it is its turn."""
        async with self._limiter:
            return await self.client.deliver(event, hook)


class _Runner:
    """One hook of a pattern, as long as this agent tells it."""

    def __init__(self, delivery: Delivery, pattern: str, name: str, hook: Hook, claim: Claim) -> None:
        self._delivery = delivery
        self._pattern = pattern
        self._name = name
        self._label = f"{pattern}/{name}"
        self._hook = hook
        self._audit = False
        self._claim = claim
        self._filter = Filter(hook)
        self._busy: set[str] = set()
        """Conditions with a delivery under way."""
        self._sending: set[str] = set()
        """What is being delivered: a digest is what several events come to."""
        self._finished: set[str] = set()
        """Events that this hook is done with, though the outbox may not know yet."""
        self._wake = trio.Event()
        self.scope = trio.CancelScope()

    def configure(self, hook: Hook, audit: bool) -> None:
        """The document, as it is now; and word that something may have changed."""
        if hook != self._hook:
            self._hook = hook
            self._filter.configure(hook)
        self._audit = audit
        self._wake.set()

    async def run(self) -> None:
        """Offer every event to the filter, and tell what it lets through."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    until = await self._offer_all(nursery)
                    with trio.move_on_at(until):
                        await self._wake.wait()

    async def _offer_all(self, nursery: trio.Nursery) -> float:
        """Returns when to come again."""
        until = trio.current_time() + 60.0
        events = self._delivery.events_of(self._pattern)
        self._finished &= {event.id for event in events}
        held_back: set[str] = set()
        for event in events:
            if event.id in self._finished or self._delivery.is_done(event.id, self._label):
                continue
            if event.key in self._busy or event.key in held_back:
                continue  # what happened to a condition is told in its order
            verdict = self._filter.offer(event, trio.current_time(), _age_s(event))
            if isinstance(verdict, Drop):
                self._delivery.count(self._label, "dropped")
                await self._done(event, f"not told: {verdict.reason}")
            elif isinstance(verdict, Wait):
                until = min(until, verdict.until)
                self._delivery.waiting[event.id] = f"{self._label}: {verdict.reason}"
            elif verdict.event.id in self._sending:
                continue
            elif len(self._busy) < AT_ONCE_EACH:
                self._busy.add(event.key)
                self._sending.add(verdict.event.id)
                nursery.start_soon(self._tell, verdict, event)
            else:
                held_back.add(event.key)
        return until

    async def _tell(self, send: Send, event: Event) -> None:
        """Try until it is done or given up."""
        outcome = await self._try(send.event)
        for covered in self._delivery.events_of(self._pattern) if send.covers else ():
            if covered.id in send.covers and covered.id != event.id:
                await self._done(covered, outcome)
        await self._done(event, outcome)
        self._busy.discard(event.key)
        self._sending.discard(send.event.id)
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
        self._delivery.waiting.pop(event.id, None)
        await self._delivery.note(self._pattern, self._name, event, outcome, self._claim)


def _age_s(event: Event) -> float:
    try:
        return max(0.0, time.time() - datetime.fromisoformat(event.time).timestamp())
    except ValueError:
        return 0.0


def digest(outcomes: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Outcomes by hook, for people."""
    found: dict[str, dict[str, Any]] = {}
    for (hook, outcome), number in sorted(outcomes.items()):
        found.setdefault(hook, {})[outcome] = number
    return found
