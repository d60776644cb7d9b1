"""How what happens becomes an event in etcd.

Three ways, by who can tell:

- This host's own instances: the event goes into the very transaction of the transition (`own`).
- What happens inside of this agent, a breaker or a lost etcd: it is put as soon as etcd takes it (`tell`).
- What nobody can tell of himself, a host that died, or that belongs to nobody, a service that is down: every agent sees
  it, and one of them puts it: ranked by rendezvous hashing, each waits a little longer than the one before, and puts
  only what is not there yet. What lasts (a service is down, an agent is lost) stands in `conditions/` as long as it
  does, so that it is told once, whoever restarts meanwhile.

Laws
- Nothing is written that no webhook wants.
- Of the same thing all agents make the same event id, or the transaction of the second one fails.
- Nobody is called lost because etcd was away (`absence`), least of all by himself, nor registered who stands where he
  stood before; what comes once more with a fresh snapshot is no news.
- What is over before an agent's turn has come is not said to have begun: the ones before it have told both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

import msgspec
import structlog
import trio

from agent.control.events import policy_news
from agent.control.events.absence import Absence
from agent.control.events.outbox.outbox import Outbox, rank
from agent.control.events.proposal import Proposal, always, at_once
from agent.control.host.clock import now_text
from agent.control.mesh.table import Table
from agent.events import PREFIX, Event, identify, identify_local, make
from agent.frames import EndpointFrame, Transition
from policies.hashing import hash64
from policies.kinds.webhook.event import Value
from registry.backoff import Backoff
from registry.keys import Keys, Room
from registry.records import Agent, Begun, Instance, OutboxEntry, encode
from registry.store import Change, Compare, Delete, Put, Store, StoreError, TooLarge

STEP_S: Final = 0.5
"""How much longer each agent waits than the one ranked before it."""
MAX_WAITING: Final = 2000
Identity = tuple[str, str]
Data = dict[str, Value]
log = structlog.get_logger()


def unrecorded(_: Event) -> None:
    """No record is kept."""


class EventDetector:
    """One agent's side of it."""

    def __init__(
        self,
        table: Table,
        outbox: Outbox,
        store: Store,
        keys: Keys,
        host: str,
        boot: str,
        *,
        lease_s: float = 0.0,
        link: str = "",
        record: Callable[[Event], None] = unrecorded,
    ) -> None:
        """`lease_s`: how long agents' leases last. `record` is handed what this agent tells: of itself and its
        instances whoever wants to know, of others what was this agent's turn to put."""
        self._table = table
        self._outbox = outbox
        self._store = store
        self._keys = keys
        self._host = host
        self._boot = boot
        self._link = link
        self._record = record
        self._number = 0
        self._up: dict[str, bool] = {}
        """By service: whether it had a healthy instance when it was looked at last."""
        self._agents: dict[str, Agent] = {}
        self._revisions: dict[Identity, int] = {}
        self.absence = Absence(host, lease_s)
        self._documents = policy_news.Known()
        self._suspected: dict[Identity, tuple[EndpointFrame, int]] = {}
        """Instances whose end is not believed yet, and the revision of the record that each had."""
        self._held: set[Identity] = set()
        """Policies that are held, by kind and pattern."""
        self._proposed: set[str] = set()
        self._breakers: set[str] = set()
        self._send, self._receive = trio.open_memory_channel[Proposal](MAX_WAITING)
        self._started = False
        self.whole: dict[str, None] = {}
        """Events that this agent put whole where all hosts' stand, the last of them."""
        self.lost = 0
        """Events that could not be kept because there were too many at once."""

    # This host's own.

    def own(self, name: str, parts: Mapping[str, str], data: Mapping[str, Value]) -> list[Put]:
        """What goes into the transaction of a transition of our own; nothing where nobody wants to know."""
        made = self._made(name, parts, data)
        if made is None:
            return []
        self._record(made)
        return self._puts(made) if self._cares(made) else []

    def tell(self, name: str, parts: Mapping[str, str], data: Mapping[str, Value], time: str = "") -> None:
        """Something happened inside of this agent."""
        made = self._made(name, parts, data, time=time)
        if made is None:
            return
        self._record(made)
        if self._cares(made):
            self._enqueue(Proposal(0.0, made.id, [], [*self._puts(made)]))

    def of_instance(self, name: str, identity: Identity, data: Mapping[str, Value]) -> list[Put]:
        """`own`, of an instance."""
        return self.own(name, _parts(identity), data)

    def joined(self, version: str) -> None:
        """This agent lives. Where it was lost before, the end of that is told, by whoever is first."""
        if f"agents/{self._host}" not in self._outbox.conditions:
            self.tell("agent.joined", {"host": self._host}, {"version": version})

    def _made(
        self, name: str, parts: Mapping[str, str], data: Mapping[str, Value], *, id: str = "", time: str = ""
    ) -> Event | None:
        if not id:
            self._number += 1
            id = identify_local(self._boot, self._number)
        try:
            made = make(
                name,
                id=id,
                time=time or now_text(),
                mesh=self._keys.mesh,
                parts=parts,
                data={"agent": self._host, **data},
            )
        except ValueError as error:
            log.error("an event cannot be made", error=str(error))
            return None
        if self._link:
            said = {"subject": made.subject, "service": made.service, "id": made.id, "mesh": made.mesh}
            link = self._link
            for field, value in said.items():
                link = link.replace(f"{{{field}}}", quote(value, safe=""))
            made = msgspec.structs.replace(made, link=link)
        return made

    def _cares(self, event: Event | None) -> bool:
        return event is not None and self._outbox.cares(event.type.removeprefix(PREFIX), event.service, event.subject)

    def _puts(self, event: Event) -> list[Put]:
        """Under this host's own key, with an entry where all hosts' are, or whole there: as the mesh has it."""
        entry, word = self._keys.event(event.id), OutboxEntry(event=msgspec.to_builtins(event), at=now_text())
        if self._table.forms.has("events"):
            own = Put(self._keys.own_event(self._host, event.id), encode(word))
            return [own, Put(entry, encode(OutboxEntry(host=self._host, at=word.at)))]
        self.whole[event.id] = None
        if len(self.whole) > MAX_WAITING:
            del self.whole[next(iter(self.whole))]
        return [Put(entry, encode(word))]

    # What happened to others.

    def observe(self, changes: Sequence[Change], touched: Iterable[str], *, cluster: int) -> None:
        """Whatever the table has just taken in."""
        known = self._started
        self._started = True
        if known:
            own = self._keys.agent(self._host)
            if any(change.value is None and change.key == own for change in changes):
                self.absence.note()
            self._see_agents()
            self._see_lost_instances(cluster)
        self._see_policies(changes, cluster, known=known)
        self._agents = dict(self._table.agents)
        self._note_revisions(changes, cluster, known=known)
        for service in touched if known else list(self._table.services):
            self._see_service(service)

    def webhooks_changed(self) -> None:
        """There are other webhooks: what lasts may be of interest now."""
        for service in list(self._table.services):
            self._see_service(service)

    def _note_revisions(self, changes: Sequence[Change], cluster: int, *, known: bool) -> None:
        for change in changes:
            key = self._keys.parse(change.key)
            if isinstance(key, tuple) and getattr(key, "room", None) is Room.INSTANCES:
                identity = (key.first, key.second)  # type: ignore[union-attr]
                if change.value is None:
                    if self._standing(identity) is None:  # else it was put again before anybody looked
                        self._revisions.pop(identity, None)
                    continue
                was, _ = self._suspected.pop(identity, (None, 0))
                new = identity not in self._revisions and identity not in self._table.forms.moved
                if known and new and not self._is_back(identity, was):
                    self._see_registered(identity, change.revision, cluster)
                self._revisions[identity] = change.revision

    def _standing(self, identity: Identity) -> Instance | None:
        service = self._table.services.get(identity[0])
        return service.instances.get(identity[1]) if service is not None else None

    def _is_back(self, identity: Identity, was: EndpointFrame | None) -> bool:
        """Whether it stands where it stood until a lease ran out; nobody was told that it was gone."""
        record = self._standing(identity)
        return was is not None and record is not None and (record.address, record.port) == (was.address, was.port)

    def _see_registered(self, identity: Identity, revision: int, cluster: int) -> None:
        record = self._standing(identity)
        if record is not None:
            data: Data = {
                "address": record.address,
                "port": record.port,
                "version": record.version,
                "zone": record.zone,
            }
            self._derived("instance.registered", _parts(identity), data, cluster, revision)

    def _see_lost_instances(self, cluster: int) -> None:
        for identity, endpoint in self._table.removed.items():
            if endpoint is not None:
                revision = self._revisions.get(identity, 0)
                if identity in self._table.suspects:
                    self._suspected[identity] = (endpoint, revision)
                else:
                    self._tell_gone(identity, endpoint, revision, cluster)

    def suspects_gone(self, identities: Iterable[Identity], cluster: int) -> None:
        """They do not answer either."""
        for identity in identities:
            endpoint, revision = self._suspected.pop(identity, (None, 0))
            if endpoint is not None:
                self._tell_gone(identity, endpoint, revision, cluster)
                self._see_service(identity[0], lost=True)

    def _tell_gone(self, identity: Identity, endpoint: EndpointFrame, revision: int, cluster: int) -> None:
        owner = self._agents.get(endpoint.agent)
        if owner is not None and owner.stopping:
            return
        gone = bool(endpoint.agent) and endpoint.agent not in self._table.agents
        reason = f"the agent {endpoint.agent} is gone, and its lease ran out" if gone else "its key was deleted"
        data: Data = {"orderly": False, "reason": reason, "version": endpoint.version, "zone": endpoint.zone}
        absent = [Compare(self._keys.instance(*identity), create_revision=0)]  # it may be back before our turn has come
        self._derived("instance.gone", _parts(identity), data, cluster, revision, absent)

    def _see_agents(self) -> None:
        for host, record in self._agents.items():
            if host not in self._table.agents and host != self._host and not record.stopping:
                reason = "its lease ran out: the host or its link died, or the agent did"
                gone = partial(self._is_lost, host)
                believed_at = partial(self.absence.believed_at, trio.current_time())
                self._begins("agent.lost", f"agents/{host}", {"host": host}, {"reason": reason}, gone, believed_at)
        for host, record in self._table.agents.items():
            self._ends("agent.joined", f"agents/{host}", {"host": host}, {"version": record.version})

    def _is_lost(self, host: str) -> bool:
        return host not in self._table.agents

    def _see_policies(self, changes: Sequence[Change], cluster: int, *, known: bool) -> None:
        news = policy_news.of_holds(self._held, changes, self._table, self._keys)
        fresh = self._documents.fresh(changes, self._keys, cluster)
        for found in [*(policy_news.of_changes(fresh, self._table, self._keys) if known else ()), *news]:
            self._derived(found.name, found.parts, found.data, cluster, found.revision)
        self._held = set(self._table.distrusted.holding.holds)

    def _see_service(self, name: str, *, lost: bool = False) -> None:
        """`lost`: instances of it are gone that nobody has told of yet."""
        service = self._table.services.get(name)
        instances = service.instances if service is not None else {}
        health = service.health if service is not None else {}
        healthy = sum(id not in health or health[id].healthy for id in instances)
        if service is not None and service.suspects and not instances:
            return  # it may be up: their probes will tell
        was_up = self._up.get(name)
        parts = {"service": name}
        if healthy:
            self._up[name] = True
            self._ends("service.recovered", f"services/{name}", parts, {"instances": len(instances)})
            return
        lost = not instances and (
            lost or any(gone is not None for (service, _), gone in self._table.removed.items() if service == name)
        )
        unchecked = any(health[id].reason.startswith("not checked yet") for id in instances if id in health)
        if (instances and not (unchecked and was_up is None)) or (lost and was_up):
            self._up[name] = False
            data: Data = {"instances": len(instances), "reason": self._why_down(name)}
            self._begins("service.down", f"services/{name}", parts, data, partial(self._is_down, name))

    def _is_down(self, service: str) -> bool:
        return not self._up[service]

    def _why_down(self, name: str) -> str:
        service = self._table.services.get(name)
        said = sorted({h.reason for h in service.health.values() if not h.healthy and h.reason}) if service else []
        return "; ".join(said[:3]) or "no instance is left"

    # Putting it.

    def _derived(
        self, name: str, parts: Mapping[str, str], data: Mapping[str, Value], cluster: int, revision: int,
        still: Iterable[Compare] = (),
    ) -> None:  # fmt: skip
        """An event that all agents name alike, those of the version before too, to which policies were no room;
        `still`: what has to be so yet when it is put."""
        named = sorted(part for part in parts.items() if part != ("room", Room.POLICIES.value))
        mark = hash64(f"{name} {named}") & 0xFFFFFF
        made = self._made(name, parts, data, id=f"{identify(cluster, revision, mark)}")
        if made is None or not self._cares(made) or self._outbox.seen(made.id):
            return
        rooms = (Room.EVENTS, Room.TOLD, Room.UNDELIVERED)
        absent = [Compare(self._keys.event(made.id, room), create_revision=0) for room in rooms]
        self._enqueue(Proposal(self._turn_s(made.id), made.id, [*absent, *still], [*self._puts(made)], event=made))

    def _begins(
        self, name: str, subject: str, parts: Mapping[str, str], data: Mapping[str, Value], lasts: Callable[[], bool],
        believed_at: Callable[[], float] = at_once,
    ) -> None:  # fmt: skip
        """Something lasts from now on, if nobody has said so yet. `lasts`: whether it still does."""
        if subject in self._outbox.conditions or subject in self._proposed:
            return
        made = self._made(name, parts, data)
        if made is None or not self._cares(made):
            return
        key = self._keys.condition(subject)
        begun = Put(key, encode(Begun(event=made.id, at=made.time)))
        self._propose(subject, [Compare(key, create_revision=0)], [begun, *self._puts(made)], lasts, made, believed_at)

    def _ends(self, name: str, subject: str, parts: Mapping[str, str], data: Mapping[str, Value]) -> None:
        """It has ended, if that was not said yet."""
        revision = self._outbox.conditions.get(subject)
        if revision is None or subject in self._proposed:
            return
        key = self._keys.condition(subject)
        made = self._made(name, parts, data)
        operations: list[Put | Delete] = [Delete(key)]
        if made is not None and self._cares(made):
            operations += self._puts(made)
        self._propose(subject, [Compare(key, mod_revision=revision)], operations, event=made)

    def _propose(
        self,
        subject: str,
        compare: list[Compare],
        operations: list[Put | Delete],
        lasts: Callable[[], bool] = always,
        event: Event | None = None,
        believed_at: Callable[[], float] = at_once,
    ) -> None:
        self._proposed.add(subject)
        self._enqueue(Proposal(self._turn_s(subject), subject, compare, operations, lasts, event, believed_at))

    def _turn_s(self, name: str) -> float:
        return STEP_S * rank(name, self._host, self._table.agents)

    def _enqueue(self, proposal: Proposal) -> None:
        try:
            self._send.send_nowait(proposal)
        except trio.WouldBlock:
            self.lost += 1
            self._proposed.discard(proposal.name)
            log.error("more happens than can be told", name=proposal.name)

    async def run(self) -> None:
        """Put what has to be put, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for proposal in self._receive:
                nursery.start_soon(self._settle, proposal)

    async def _settle(self, proposal: Proposal) -> None:
        backoff, name = Backoff(0.1, 5.0), proposal.name
        while (at := proposal.believed_at()) > trio.current_time():  # noqa: ASYNC110 - it may have moved
            await trio.sleep_until(at)
        await trio.sleep(proposal.after_s)
        try:
            while proposal.lasts() and not (proposal.compare and self._outbox.seen(name)):
                try:
                    put = await self._store.transact(proposal.compare, proposal.operations)
                    if put.succeeded and proposal.event is not None:
                        self._record(proposal.event)
                    return
                except TooLarge as error:
                    log.error("an event is too large for etcd", name=name, error=str(error))
                    return
                except StoreError:
                    await trio.sleep(backoff.next_s())
        finally:
            if name in self._proposed:
                self._proposed.discard(name)
                if name.startswith("services/"):
                    self._again(name.removeprefix("services/"))

    def _again(self, service: str) -> None:
        """It may have changed sides while that was on its way, and nothing else would tell."""
        if service in self._table.services:
            self._see_service(service)

    # What happens inside.

    def on_happened(self, events: Iterable[Transition]) -> None:
        """Breakers and shedding, as the workers tell."""
        for event in events:
            if event.audit:
                continue
            data: dict[str, Value] = {"before": event.before, "after": event.after, "reason": event.reason}
            if event.kind == "breaker":
                self._tell_breaker(event.service, event.endpoint or "*", data)
            elif event.kind == "shed":
                name = "shed.started" if event.after == "shedding" else "shed.ended"
                self.tell(name, {"service": event.service, "host": self._host}, data)

    def _tell_breaker(self, service: str, instance: str, data: dict[str, Value]) -> None:
        """Several workers have a breaker each: told is the first that opens, and the first that closes after that."""
        subject = f"{service}/{instance}"
        if data["after"] == "open" and subject not in self._breakers:
            self._breakers.add(subject)
            self.tell("breaker.opened", {"service": service, "instance": instance, "host": self._host}, data)
        elif data["after"] == "closed" and subject in self._breakers:
            self._breakers.discard(subject)
            self.tell("breaker.closed", {"service": service, "instance": instance, "host": self._host}, data)


def _parts(identity: Identity) -> dict[str, str]:
    return {"service": identity[0], "instance": identity[1]}
