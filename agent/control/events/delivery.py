"""Webhooks are told what happened: once, in order, by one agent at a time, until it is done or given up.

Laws
- One agent tells the hooks of a pattern: who holds `claims/<pattern>` on its lease. What it does in etcd is fenced by
  that claim, so an agent that was paused and comes back changes nothing.
- An event is deleted from `events/` in the transaction that puts `told/`, when every hook is done with it. What a hook
  is done with is noted before, so that a successor does not tell it twice.
- Events of one condition are told to a hook one after the other. A hook that hangs holds up nobody but itself.
- What is given up stands in `undelivered/` until somebody deletes or replays it.
- What a hook opened elsewhere stands in `conditions/opened/`, put in the transaction that notes that it was told; and
  before it is asked for, since the answer may be lost. Whoever tells next knows it.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import msgspec
import structlog
import trio

from agent.control.events.hook_http import HookClient
from agent.control.events.hook_runner import GIVEN_UP, HookRunner, Label
from agent.control.events.outbox.endings import Ending, ending_of
from agent.control.events.outbox.entries import Entries
from agent.control.events.outbox.opened import Memory
from agent.control.events.outbox.outbox import Documents, Outbox, rank
from agent.control.events.outbox.own import OwnEvents
from agent.control.events.settling import Settling
from agent.control.host.clock import now_text
from agent.control.mesh.table import Table
from agent.hooks.steps import Done, Failed
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Event
from registry.backoff import Backoff
from registry.claim import Claim, give_up, take
from registry.keys import Keys
from registry.lease import Holder
from registry.records import Claimed, MeshId, Opened, encode
from registry.store import Compare, Delete, Put, Store, StoreError

MOST_WAITING: Final = 1000
"""Events of a pattern beyond which those are merged that a newer one of their condition makes needless."""
AT_A_TIME: Final = 100
"""Events that are merged before anything else is looked at."""
AT_ONCE: Final = 16
"""Deliveries under way, of all hooks."""
STEP_S: Final = 2.0
"""How much longer each agent leaves a claim free than the one ranked before it."""
KEPT_FAILURES: Final = 20
log = structlog.get_logger()


class Delivery:
    """This agent's part in telling."""

    def __init__(
        self, outbox: Outbox, table: Table, store: Store, keys: Keys, holder: Holder, host: str, client: HookClient,
        written: Collection[str],
    ) -> None:  # fmt: skip
        """`written`: events that this agent has put whole."""
        self._outbox = outbox
        self._table = table
        self._hosts: Callable[[], Iterable[str]] = lambda: table.agents
        self.cluster = 0
        """Id of the etcd."""
        self._store = store
        self._keys = keys
        self._holder = holder
        self._host = host
        self.client = client
        self._changed = trio.Event()
        self._runners: dict[str, dict[str, HookRunner]] = {}
        """Hooks that this agent tells, by pattern and name."""
        self._noted: dict[str, set[str]] = {}
        """By pattern: events which every hook may be done with."""
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._entries = Entries(store, keys, host)
        self.own = OwnEvents(outbox, table.forms, store, keys, host, lambda: table.agents, written)
        self.outcomes: dict[tuple[str, str], int] = {}
        """By hook and outcome (`delivered`, `failed`, `given up`, `dropped`): how often."""
        self.failures: deque[dict[str, str]] = deque(maxlen=KEPT_FAILURES)
        self.waiting: dict[str, str] = {}
        """Events that some hook has not been told yet, and why."""
        self.slowed: dict[str, str] = {}
        """Hooks whose service named a limit."""
        self.merged = 0
        """Events that were not told because there was a newer one of their condition, and too many waited."""

    def changed(self) -> None:
        """The outbox has changed. Who tells looks at what is new, and at nothing else."""
        news = self._outbox.take_news()
        for pattern, id in news.gone:
            self.waiting.pop(id, None)
            for runner in self._runners.get(pattern, {}).values():
                runner.forget(id)
        for pattern, id in news.noted:
            if pattern in self._noted:
                self._noted[pattern].add(id)
        for pattern, id in news.fresh:
            for runner in self._runners.get(pattern, {}).values():
                runner.add(id)
        if news.indexed:
            for runners in self._runners.values():
                for runner in runners.values():
                    runner.look_anew()
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
                await self._forget_hooks()
                if await self.own.keep():
                    await self._changed.wait()
                else:
                    await self._pause(1.0)

    async def _drop_orphans(self) -> None:
        """Events that no webhook is left for. One agent does it."""
        orphans = list(self._outbox.pending("").events)
        if not orphans or rank("orphans", self._host, self._hosts()) > 0:
            return
        await self._entries.drop([self._keys.event(id) for id in orphans])

    async def _forget_hooks(self) -> None:
        """What a hook opened that is in no document any more, once it is over: nobody can close it."""
        hooks = {f"{pattern}/{name}" for pattern, each in self._outbox.documents().items() for name in each.hooks}
        gone = [label for label in self._outbox.opened.labels() if label not in hooks]
        if not gone or rank("orphans", self._host, self._hosts()) > 0:
            return
        for label in gone:
            over = [subject for subject, memory in self.opened(label).items() if self._is_of_no_use(subject, memory)]
            await self._entries.drop([self._keys.opened(label, subject) for subject in over])

    def _is_of_no_use(self, subject: str, memory: Memory) -> bool:
        return memory.record.state == "closed" or self.ending(subject, memory) is not None

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
        runners = self._runners[pattern] = {}
        noted = self._noted[pattern] = set()
        before: Documents | None = None
        try:
            await self._name_mesh(claim)
            async with trio.open_nursery() as nursery:
                while not reason:
                    documents = self._outbox.documents().get(pattern)
                    if documents is None:
                        reason = "the document is gone"
                    elif self._holder.lease != lease or self._outbox.claims.get(pattern, self._host) != self._host:
                        reason = "the lease ran out"
                    else:
                        if documents is not before:
                            self._keep_runners(pattern, documents, runners, claim, nursery)
                            noted.update(self._outbox.pending(pattern).events)
                            before = documents
                        await self._finish_rest(pattern, documents, claim, noted)
                        await self._merge(pattern, documents, claim)
                        await self._pause(1.0)
                nursery.cancel_scope.cancel()
        finally:
            if self._runners.get(pattern) is runners:  # else another has begun for the pattern
                del self._runners[pattern], self._noted[pattern]
        if self._holder.lease == lease:
            try:
                await give_up(self._store, claim)
            except StoreError as error:
                log.debug("a claim is left to its lease", error=str(error))
        return reason

    async def _name_mesh(self, claim: Claim) -> None:
        """Make up what tells this mesh from others of its name. Clusters of etcd have ids, but every etcd that was
        started alone with its defaults has the same one."""
        backoff = Backoff(0.1, 2.0)
        while self._outbox.mesh_id is None:
            key = self._keys.mesh_id
            absent = [Compare(key, create_revision=0)]
            made = MeshId(id=secrets.token_hex(4), at=now_text())
            try:
                if not (await self._store.transact(absent, [Put(key, encode(made))])).succeeded:
                    await self._pause(1.0)
                elif self._outbox.mesh_id is None:
                    self._outbox.mesh_id = made.id
            except StoreError as error:
                log.debug("etcd did not take it", error=str(error))
                await trio.sleep(backoff.next_s())

    def outward(self, event: Event) -> Event:
        """As it is told: with a key that is of this mesh, and of no other of its name."""
        mesh = f"{self.cluster:x}-{self._outbox.mesh_id}" if self._outbox.mesh_id else f"{self.cluster:x}"
        return msgspec.structs.replace(event, key=f"{mesh}/{event.key}")

    def _keep_runners(
        self,
        pattern: str,
        documents: Documents,
        runners: dict[str, HookRunner],
        claim: Claim,
        nursery: trio.Nursery,
    ) -> None:
        for name in runners.keys() - documents.hooks.keys():
            runners.pop(name).scope.cancel()
        for name, hook in documents.hooks.items():
            runner = runners.get(name)
            if runner is None:
                settling = Settling(self._keys.mesh, self._host)
                runner = runners[name] = HookRunner(self, Label(pattern, name), hook, claim, settling)
                nursery.start_soon(runner.run)
            runner.configure(hook, documents.audit)

    async def _finish_rest(self, pattern: str, documents: Documents, claim: Claim, noted: set[str]) -> None:
        """Events that only a hook which is gone had not been told."""
        labels = {f"{pattern}/{name}" for name in documents.hooks}
        for id in list(noted):
            standing = self._outbox.events.get(id)
            done = standing is not None and labels <= standing.done.keys()
            try:
                if standing is None or not done or await self._finish(pattern, standing.event, {}, claim, documents):
                    noted.discard(id)
            except StoreError as error:
                log.debug("etcd did not take it", error=str(error))

    async def _merge(self, pattern: str, documents: Documents, claim: Claim) -> None:
        """Where too many wait, of each condition only the newest event is told."""
        pending = self._outbox.pending(pattern)
        sending = {id for runner in self._runners[pattern].values() for id in runner.sending}
        for _ in range(min(AT_A_TIME, len(pending.events) - MOST_WAITING)):
            found = pending.superseded(sending)
            if found is None:
                return
            standing, newer = found
            reason = f"merged: {newer.name} came after, and too many waited"
            untold = {f"{pattern}/{name}": reason for name in documents.hooks}
            try:
                if await self._finish(pattern, standing.event, {**untold, **standing.done}, claim, documents):
                    self.merged += 1
            except StoreError as error:
                log.debug("etcd did not take it", error=str(error))
                return
            sending.add(standing.event.id)

    def events_of(self, pattern: str) -> list[Event]:
        """Those that are still to be told, in the order in which they came."""
        return [standing.event for standing in self._outbox.pending(pattern).events.values()]

    def event(self, id: str) -> Event | None:
        """One that is still to be told."""
        standing = self._outbox.events.get(id)
        return standing.event if standing is not None else None

    def is_done(self, id: str, hook: str) -> bool:
        """Whether a hook is done with an event."""
        standing = self._outbox.events.get(id)
        return standing is None or hook in standing.done

    # What came of it.

    def opened(self, hook: str) -> Mapping[str, Memory]:
        """What a hook opened, by subject."""
        return self._outbox.opened.of(hook)

    def ending(self, subject: str, memory: Memory) -> Ending | None:
        """How something that was opened has ended; None: it lasts, or nobody knows."""
        return ending_of(subject, memory.record, self._table, self._outbox.conditions)

    async def note(self, label: Label, event: Event, outcome: str, claim: Claim, news: Opened | bool) -> None:
        """A hook is done with an event; `news`: what is remembered of its condition from now on, True: as before,
        False: nothing. Retried until etcd takes it; not done again when the claim is not ours."""
        backoff = Backoff(0.1, 2.0)
        record = news if isinstance(news, Opened) else None
        while True:
            try:
                documents = self._outbox.documents().get(label.pattern)
                if event.id not in self._outbox.events or documents is None:
                    if news is not True:
                        await self.remember(label, event.subject, record, claim)
                    return
                also = [] if news is True else [self._memory(label, event.subject, record)]
                revision = await self._finish(label.pattern, event, {str(label): outcome}, claim, documents, also)
                if revision:
                    if news is not True:
                        self._outbox.opened.note(str(label), event.subject, record, revision)
                    return
            except StoreError:
                pass
            await trio.sleep(backoff.next_s())

    async def remember(self, label: Label, subject: str, record: Opened | None, claim: Claim) -> bool:
        """Have it stand in etcd what a hook opened, or nothing; False: the claim is not ours. Raises StoreError."""
        fence = [Compare(claim.key, create_revision=claim.fence)]
        outcome = await self._store.transact(fence, [self._memory(label, subject, record)])
        if outcome.succeeded:
            self._outbox.opened.note(str(label), subject, record, outcome.revision)
        return outcome.succeeded

    async def forget(self, label: Label, subject: str, claim: Claim) -> None:
        """What was closed is not to be opened again any more; no matter if that fails, for it is asked again."""
        try:
            await self.remember(label, subject, None, claim)
        except StoreError as error:
            log.debug("etcd did not take it", error=str(error))

    def _memory(self, label: Label, subject: str, record: Opened | None) -> Put | Delete:
        key = self._keys.opened(str(label), subject)
        return Delete(key) if record is None else Put(key, encode(record))

    async def _finish(
        self, pattern: str, event: Event, news: dict[str, str], claim: Claim, documents: Documents,
        also: Iterable[Put | Delete] = (),
    ) -> int:  # fmt: skip
        """Write down what came of an event; delete it when every hook is done. The revision; 0: it has changed
        meanwhile, or is gone."""
        standing = self._outbox.events.get(event.id)
        if standing is None:
            return 0
        done = {**standing.done, **news}
        told = all(f"{pattern}/{name}" in done for name in documents.hooks)
        gives_up = any(outcome.startswith(GIVEN_UP) for outcome in news.values())
        lost = {hook: outcome for hook, outcome in done.items() if gives_up and outcome.startswith(GIVEN_UP)}
        return await self._entries.finish(standing, done, claim, told=told, lost=lost, also=also)

    async def note_trying(self, event: Event, hook: str, reason: str, claim: Claim) -> None:
        """Have it stand in etcd why a hook was not told yet, for people."""
        standing = self._outbox.events.get(event.id)
        if standing is not None:
            await self._entries.note_trying(standing, hook, reason, claim)

    def count(self, hook: str, outcome: str) -> None:
        """For metrics."""
        self.outcomes[hook, outcome] = self.outcomes.get((hook, outcome), 0) + 1

    def failed(self, hook: str, event: Event, reason: str) -> None:
        """For people."""
        self.failures.append({"hook": hook, "event": event.id, "type": event.name, "reason": reason, "at": now_text()})

    async def attempt(
        self, event: Event, label: Label, hook: Hook, claim: Claim, may: Callable[[], bool]
    ) -> Done | Failed | None:
        """One try at a hook, when it is its turn. `may`: whether it still may then; None: it may not, and was none."""
        memory = self._outbox.opened.find(str(label), event.subject)
        before = memory.record if memory is not None else None

        async def intend(place: str) -> str:
            asked = 1 + (before.asked if before is not None and before.state == "opening" else 0)
            record = Opened(event=event.id, type=event.type, service=event.service, state="opening", at=now_text(),
                            place=place, asked=asked)  # fmt: skip
            try:
                return "" if await self.remember(label, event.subject, record, claim) else "another agent tells it now"
            except StoreError as error:
                return f"etcd: {error}"

        async with self.client.turn(hook), self._limiter:
            if not may():
                return None
            return await self.client.deliver(self.outward(event), hook, before, intend)


def digest(outcomes: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Outcomes by hook, for people."""
    found: dict[str, dict[str, Any]] = {}
    for (hook, outcome), number in sorted(outcomes.items()):
        found.setdefault(hook, {})[outcome] = number
    return found
