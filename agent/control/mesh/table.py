"""What control knows of the mesh: folds changes into services, and says which of them a change touched. Pure.

Laws
- A bad value never replaces a good one, neither a policy (see `in_force`) nor a record (law 3 of the mesh). What was
  refused is kept beside, with the reason, until it is mended or deleted.
- The cost of a change is that of what it touches (law 5). An instance touches one service, an agent the services that
  it owns instances of, a policy the services that its pattern covers.
- Losses without a word are distrusted (law 4): see `doubts`. Suspects stay among the endpoints, and say that they are.
- What workers get of a record, and which are none: see `layout`.
- What is in force depends on what stands in etcd, not on the order in which it was learnt; except that what was good
  before stays when it turns bad, which is the first law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from agent.control.host.own_ports import OwnPorts, Place
from agent.control.mesh.aliases import Aliases
from agent.control.mesh.departed import Departed
from agent.control.mesh.distrust.doubts import Identity, Losses, is_mass_deletion
from agent.control.mesh.distrust.policies import FIRST, PolicyDistrust
from agent.control.mesh.distrust.source import ETCD, Source
from agent.control.mesh.distrust.suspects import Suspects, record_of
from agent.control.mesh.documents.audits import Audits
from agent.control.mesh.documents.in_force import NOT_FOR_WORKERS, InForce, Standing
from agent.control.mesh.documents.reading import Put, Read, read
from agent.control.mesh.layout import Endpoints, Forms
from agent.control.mesh.notes import Notes
from agent.control.mesh.owners import Owners
from agent.control.mesh.places import Places
from agent.control.mesh.service import Service, endpoint_of
from agent.control.mesh.touched import Touch, Touched
from agent.frames import EndpointFrame, Gone, Stage, Where
from policies.language.names import matches
from registry.identity_records import Holds
from registry.keys import HOSTS, Key, Keys, Room, Unknown, owner_of
from registry.records import Agent, Health, Held, Instance, LastGood, Malformed, Record, Rejection, decode, encode
from registry.store import Change


class Table:
    """The mesh as this host sees it."""

    def __init__(self, keys: Keys, host: str, own: OwnPorts | None = None, places: Places | None = None) -> None:
        """`own`: what no request is dialled to as to an instance. `places`: the index to keep of who is dialled."""
        self._keys = keys
        self.host = host
        self._own = own or OwnPorts()
        self.places = places or Places()
        self.revision = 0
        self.cluster = 0
        """Id of the etcd that it is of; 0: of none."""
        self.witness = ("", 0)
        """A key of that etcd, and a revision at which it was put."""
        self.services: dict[str, Service] = {}
        self.owners = Owners()
        self.agents = self.owners.agents
        self.moved = False
        """Whether they made an agent come, go, or live elsewhere."""
        self.in_force = InForce(self._read_document, self._policy_changed)
        self.audits = Audits(self.in_force, self._read_document, self._audit_changed)
        self.policies = self.in_force.policies
        """By kind and pattern."""
        self.refused = self.in_force.refused
        """By kind and pattern."""
        self.rejections: dict[Identity, Rejection] = {}
        """What stands in etcd about refused policies, whoever wrote it; by kind and pattern."""
        self.changes: Counter[str] = Counter()
        """How often other documents of a kind came into force, or to be watched."""
        self.malformed = Notes()
        self.forms = Forms(self.services)
        self._endpoints = Endpoints(keys, host, self._own, self.owners, self.forms)
        self.inward = self._endpoints.refused
        """Keys of instances that are none, and why."""
        self.instance_count = 0
        self._aliases = Aliases()
        self.departed = Departed(self.services)
        self.suspects = Suspects(self.services)
        self.distrusted = PolicyDistrust(keys, self.in_force, self._read_document)
        self._now_s = 0.0
        """Of the changes at hand."""
        self._documents: Mapping[Put, Read] = {}
        self._touched: set[str] = set()
        self.untold = Touched()
        """What has changed since whoever feeds the workers took it."""
        self.removed: dict[Identity, EndpointFrame | None] = {}
        """Instances that the last changes deleted; with the endpoint when it had not been draining."""
        self._removed: dict[Identity, EndpointFrame | None] = {}

    # The way of a change.

    def apply(
        self,
        changes: Sequence[Change],
        revision: int,
        *,
        whole: bool = False,
        documents: Mapping[Put, Read] = MappingProxyType({}),
        found: Mapping[Identity, LastGood] = MappingProxyType({}),
        now_s: float = 0.0,
        losses: Losses = Losses.JUDGED,
        source: Source = ETCD,
    ) -> set[str]:
        """Take changes; returns the services whose frame may differ now.

        `whole`: the changes are everything that there is; what they do not name is gone. `documents`: those of the
        changes that were read ahead. `found`: last good states that etcd's history told. `now_s`: of any clock that
        only goes forward. `losses`: what deleted instances make of it. `source`: whose word it is.
        """
        self._documents = documents
        self._now_s = now_s
        for (kind, pattern), record in found.items():
            self.in_force.find(kind, pattern, record)
        before = self.instance_count
        self.moved = False
        if whole:
            changes = [*self._missing(changes, revision), *changes]
        parsed = self.distrusted.believed(self._parsed(changes), (self.revision, revision), source, whole=whole)
        for key, change in parsed:
            try:
                self._take(key, change)
            except Exception as error:  # every agent reads this key: a mistake of ours must not end all of them
                self.malformed.note(
                    change.key, f"cannot be taken, by an internal error: {type(error).__name__}: {error}"
                )
        self.audits.settle()
        self.revision = revision
        self.forms.stands &= not source.disk
        for moved in self.forms.settle():
            self._removed.pop(moved, None)
        self._distrust(before, losses)
        for name in self._touched:
            self.departed.settle(name, now_s)
        self.removed = self._removed
        touched, self._touched, self._removed = self._touched, set(), {}
        return touched

    def _missing(self, changes: Sequence[Change], revision: int) -> list[Change]:
        held = [key for key, _, _ in self.saved()]
        if not held:
            return []
        named = {self._keys.canonical(key) for key, _ in self._parsed(changes)}
        return [Change(key, None, revision) for key in held if key not in named]

    def _parsed(self, changes: Sequence[Change]) -> list[tuple[Key, Change]]:
        """The changes that concern us, instances first: what is deleted together is judged by what stood before. And
        last good states, which are asked for when a policy is refused."""
        parsed: list[tuple[Key, Change]] = []
        for change in changes:
            key = self._keys.parse(change.key)
            if isinstance(key, Unknown) and key.policy is not None:
                self.in_force.take_misnamed(key.policy, change, key.reason)
            elif isinstance(key, Unknown):
                self.malformed.note(change.key, key.reason if change.value is not None else None)
            elif key == LAYOUT:
                self._take_layout(change)
            elif key.room in _TAKERS:
                parsed.append((key, change))
        parsed.sort(key=lambda pair: pair[0].room not in FIRST)
        return parsed

    def _take_layout(self, change: Change) -> None:
        before = self.forms.layout
        self.malformed.note(change.key, self.forms.take(change))
        for name, identities in self.forms.spoken_for() if self.forms.layout != before else ():
            self._touch(name).instances.update(identities)

    def _take_confirmed(self, key: Key, change: Change) -> None:
        self.distrusted.take_confirmed(change)

    def _take_held(self, key: Key, change: Change) -> None:
        self.distrusted.take_held((key.first, key.second), change, self._decoded(Held, change))

    def _take(self, key: Key, change: Change) -> None:
        canonical = self._keys.canonical(key)
        effective = self._aliases.effective(key, canonical, change, held=self._holds(key))
        if effective is not None:
            _TAKERS[key.room](self, key, effective)

    def _holds(self, key: Key) -> bool:
        if key.room is Room.INSTANCES:
            return key.first in self.services and key.second in self.services[key.first].instances
        if key.room is Room.HEALTH:
            return key.first in self.services and key.second in self.services[key.first].health
        if key.room is Room.POLICIES:
            return key.second in self.policies.get(key.first, {}) or (key.first, key.second) in self.refused
        if key.room is Room.AUDITS:
            return self.audits.holds(key.first, key.second)
        if key.room is Room.LAST_GOOD:
            return (key.first, key.second) in self.in_force.recorded
        if key.room is Room.TRUST:
            return key.first in self.owners.holds
        return False  # hosts have one spelling, and what is said about refusals is only compared

    def _decoded(self, kind: type[Record], change: Change, owner: str = "") -> Any:
        """The record in a change; None when it is deleted, or malformed, which is noted."""
        try:
            record = decode(kind, change.value, owner) if change.value is not None else None
        except Malformed as error:
            self.malformed.note(change.key, str(error))
            return None
        self.malformed.note(change.key, None)
        return record

    def _service(self, name: str, changed: str) -> Service:
        """Made where there is none. `changed`: id of the instance that it is wanted for."""
        service = self.services.get(name)
        if service is None:
            service = self.services[name] = Service()
        self._touch(name).instances.add(changed)
        return service

    def _touch(self, name: str) -> Touch:
        self._touched.add(name)
        return self.untold.service(name)

    # Instances and their health.

    def _take_instance(self, key: Key, change: Change) -> None:
        record = self._decoded(Instance, change, owner_of(key.second))
        if record is not None:
            self._put_instance(key.first, key.second, record)
        elif change.value is None and self._holds(key):
            self._remove_instance(key.first, key.second)

    def _put_instance(self, name: str, identity: str, record: Instance) -> None:
        service = self._service(name, identity)
        before = service.instances.get(identity)
        if before is not None:
            self.owners.count(before.agent, name, -1)
            self.places.count(before.address, before.port, name, -1)
        else:
            self.instance_count += 1
        service.instances[identity] = record
        self.suspects.drop(name, identity)
        for displaced in self.suspects.displaced(record):
            self._touched |= self.drop_suspect(*displaced)
        self.owners.count(record.agent, name, 1)
        self.places.count(record.address, record.port, name, 1)
        self._removed.pop((name, identity), None)

    def _remove_instance(self, name: str, identity: str) -> None:
        service = self._service(name, identity)
        record = service.instances[identity]
        owner = self.agents.get(record.agent) or self.suspects.agents.get(record.agent)
        owner = None if record.agent == self.host else owner
        until = self.owners.secured_until(record.agent, name)
        endpoint = endpoint_of(identity, record, service.health.get(identity), owner, until)
        del service.instances[identity]
        self.instance_count -= 1
        self.owners.count(record.agent, name, -1)
        self.places.count(record.address, record.port, name, -1)
        refused = self._endpoints.forget(name, identity)
        self.forms.removed[name, identity] = record.agent
        self._removed[name, identity] = None if refused or record.state == "draining" else endpoint

    def _take_health(self, key: Key, change: Change) -> None:
        record = self._decoded(Health, change, owner_of(key.second))
        if record is not None:
            self._service(key.first, key.second).health[key.second] = record
        elif change.value is None and self._holds(key):
            del self._service(key.first, key.second).health[key.second]

    # Agents.

    def _take_agent(self, key: Key, change: Change) -> None:
        record = self._decoded(Agent, change)
        if record is None and change.value is not None:
            return
        before = self.agents.get(key.first)
        if record is not None:
            self.agents[key.first] = record
            self.suspects.agent_came(key.first, self._now_s)
        elif before is not None:
            del self.agents[key.first]
            self.suspects.agent_went(key.first, before, self._now_s)
        self.moved = self.moved or (before and before.address) != (record and record.address)
        if _dialled(before) != _dialled(record):
            self._touch_owned(key.first, self.owners.services(key.first))
            for name in self.places.move(key.first, _dialled(before), _dialled(record)):
                self._touch(name).whole = True

    def _touch_owned(self, host: str, names: Iterable[str]) -> None:
        """A host's instances of services are something else to callers."""
        for name in names:
            owned = [id for id, each in self.services[name].instances.items() if each.agent == host]
            self._touch(name).instances.update(owned)

    def _take_holds(self, key: Key, change: Change) -> None:
        record = self._decoded(Holds, change)
        if record is not None or change.value is None:
            self._touch_owned(key.first, self.owners.take_holds(key.first, record))

    # Policies.

    def _take_policy(self, key: Key, change: Change) -> None:
        self.in_force.take(key.first, key.second, change)

    def _take_audit(self, key: Key, change: Change) -> None:
        self.audits.take(key.first, key.second, change)

    def _take_last_good(self, key: Key, change: Change) -> None:
        record = self._decoded(LastGood, change)
        if record is not None:
            self.in_force.record(key.first, key.second, Standing(record, change.revision))
        elif change.value is None:
            self.in_force.record(key.first, key.second, None)

    def learn(self, found: Mapping[Identity, LastGood]) -> set[str]:
        """Last good states that etcd's history told; returns the services that they touch."""
        for (kind, pattern), record in found.items():
            self.in_force.find(kind, pattern, record)
        self.audits.settle()
        touched, self._touched = self._touched, set()
        return touched

    def _read_document(self, kind: str, pattern: str, value: bytes) -> Read:
        return self._documents.get((kind, pattern, value)) or read(kind, pattern, value)

    def _policy_changed(self, kind: str, pattern: str, by: int) -> None:
        if kind in NOT_FOR_WORKERS:
            return
        if "*" not in pattern:
            self.services.setdefault(pattern, Service()).policies += by
        self._audit_changed(kind, pattern)

    def _audit_changed(self, kind: str, pattern: str) -> None:
        """What is only watched makes no name known."""
        if kind in NOT_FOR_WORKERS:
            return
        self.changes[kind] += 1
        for name in [pattern] if "*" not in pattern else self.services:
            if matches(pattern, name) and name in self.services:
                self._touch(name).policies = True

    def _take_rejection(self, key: Key, change: Change) -> None:
        record = self._decoded(Rejection, change)
        rejections = self.audits.rejections if key.room is Room.AUDITS_REJECTED else self.rejections
        if record is None:
            rejections.pop((key.first, key.second), None)
        else:
            rejections[key.first, key.second] = record

    # Distrust.

    def _distrust(self, before: int, losses: Losses) -> None:
        emptied = {name for name, _ in self._removed if not self.services[name].instances}
        doubtful = {identity: endpoint for identity, endpoint in self._removed.items() if endpoint is not None}
        if is_mass_deletion(before, len(doubtful), len(emptied & {name for name, _ in doubtful})):
            losses = max(losses, Losses.DOUBTED)
        for name, identity in self.suspects.judge(self._removed, self._now_s, losses):
            self._touch(name).instances.add(identity)

    def drop_suspect(self, name: str, identity: str, now_s: float = 0.0) -> set[str]:
        """Believe the deletion; returns the services that it touches. Without a name it is an agent's."""
        self.moved |= not name and self.suspects.drop_agent(identity)
        if not name or not self.suspects.drop(name, identity):
            return set()
        self.untold.service(name).instances.add(identity)
        self.departed.settle(name, now_s or self._now_s)
        return {name}

    def forget_departed(self, now_s: float) -> set[str]:
        """Names that went a while ago and did not come back are unknown from now on; returns them."""
        names = self.departed.forget(now_s)
        for name in names:
            self.untold.service(name)
        return names

    def dial_suspect(self, name: str, identity: str, place: Place) -> set[str]:
        """A suspect answers at one of its places: requests go there. Returns the services that it touches."""
        through = self.suspects.is_through(name, identity, place)
        if not through and self._own.belongs(*place):
            return self.drop_suspect(name, identity)
        if not self.suspects.dial(name, identity, place):
            return set()
        self.untold.service(name).instances.add(identity)
        return {name}

    # What goes to the workers.

    def agents_frame(self) -> Where:
        """Who lives, and where; who may live, too."""
        known = {**self.suspects.agents, **self.agents}
        return Where(self.host, {host: a.address for host, a in known.items()})

    def frame(self, name: str) -> Stage | Gone:
        """A service as a worker gets it that does not have it; its endpoints by id, suspects last."""
        service = self.services.get(name)
        if service is None or not service.known:
            return Gone(name)
        endpoints = self._endpoints.all(name, service)
        return Stage(name, self.revision, endpoints, self.in_force.of(name), self.audits.of(name))

    def endpoint(self, name: str, service: Service, identity: str) -> EndpointFrame | None:
        """An instance or a suspect as workers get it; None where there is none that could be dialled."""
        return self._endpoints.of(name, service, identity)

    def shadowed(self) -> list[tuple[str, str]]:
        """Keys that another spelling keeps out of force, and why."""
        return self._aliases.shadowed()

    # What goes to disk.

    def saved(self) -> Iterator[tuple[str, bytes, int]]:
        """Everything good that is known, as key, value and revision: applied to a new table it makes the same one; and
        what is refused without anybody knowing what was good, so that a restart opens no door. Suspects, and agents
        that were lost, stand there as they were: etcd's word makes suspects of them again."""
        keys = self._keys
        for host, agent in {**self.suspects.agents, **self.agents}.items():
            yield keys.agent(host), encode(agent), 0
        for host, holds in self.owners.holds.items():
            yield keys.trust(host), encode(holds), 0
        for name, service in self.services.items():
            for identity, suspect in service.suspects.items():
                yield keys.instance(name, identity), encode(record_of(suspect)), 0
            yield from service.saved(keys, name)
        yield from self.in_force.saved(keys)
        yield from self.audits.saved(keys)
        yield from self.distrusted.saved()
        if self.forms.layout is not None:
            yield keys.layout, encode(self.forms.layout), 0
        for (kind, pattern), refused in self.in_force.unknown().items():
            yield keys.policy(kind, pattern), refused.value, refused.revision


LAYOUT: Final = Key(Room.CONFIRMED, HOSTS)


def _dialled(agent: Agent | None) -> tuple[str, int] | None:
    return (agent.address, agent.inbound_port) if agent is not None else None


_TAKERS: Final = {
    Room.INSTANCES: Table._take_instance,
    Room.HEALTH: Table._take_health,
    Room.AGENTS: Table._take_agent,
    Room.AUDITS: Table._take_audit,
    Room.AUDITS_REJECTED: Table._take_rejection,
    Room.CONFIRMED: Table._take_confirmed,
    Room.HELD: Table._take_held,
    Room.LAST_GOOD: Table._take_last_good,
    Room.POLICIES: Table._take_policy,
    Room.REJECTED: Table._take_rejection,
    Room.TRUST: Table._take_holds,
}
