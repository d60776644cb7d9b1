"""The instances beside this agent: registered on its lease, checked, and taken out in order.

Laws
- What stands in etcd, and whose an id is, `published` has. A newcomer counts as unhealthy until its first check has
  passed; one that was known before keeps its verdict.
- A check does what its source may have done here (`permits`), and no more. A policy that asks for more costs no
  instance its place in the mesh: its port is checked instead, and that is said wherever its health is.
- An instance is never where an agent listens, and one that a program beside us registers is on this host.
- Leaving: `draining` first, then time for the word to spread, then the key is deleted.
- An instance is whose that registered it: nobody else replaces it, takes it out, or speaks for it, but who operates.
- It lives as long as whoever registered it says so (`renewals`), and an address and port is one service's (`places`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import structlog
import trio

from agent.control.host.own_ports import is_here
from agent.control.instances.checks import Check, Means, Subject
from agent.control.instances.permits import Permits
from agent.control.instances.places import Places
from agent.control.instances.published import Events, Published
from agent.control.instances.registration import (
    UNCHECKED,
    Added,
    Identity,
    Local,
    NotYours,
    Registered,
    Registration,
    Taken,
    TooMany,
    identity_of,
    owner_of,
    state_before,
)
from agent.control.instances.renewals import ABANDONED_S, LEAST_S, MOST_S, Renewals
from agent.control.instances.saved_instances import SavedInstances, owner
from agent.control.instances.tokens import Tokens
from agent.control.mesh.table import Table
from agent.identity.users import ROOT, User
from agent.ports import Ports
from agent.settings.document import InstanceSettings, Settings
from policies.kinds.health.decide import Transition
from policies.kinds.health.document import HealthPolicy, TcpCheck
from policies.language.document import convert
from policies.language.duration import bounded
from policies.language.plain import Flaw
from registry.keys import Keys
from registry.lease import Holder
from registry.ownership import held
from registry.records import Instance, Malformed, check_address
from registry.store import Put

log = structlog.get_logger()
DEFAULT_CHECK: Final = HealthPolicy(tcp=TcpCheck())
"""What is asked of an instance that nobody said anything about: that its port accepts connections."""
DEREGISTERED: Final = "it was deregistered"
EXPIRE_EVERY_S: Final = 30.0
ADMIT_S: Final = 2.0
"""How long etcd may take to say whose an id is, before a registration counts without."""


class Registrar:
    """Owns the keys of this host's instances."""

    def __init__(
        self,
        settings: Settings,
        address: str,
        keys: Keys,
        holder: Holder,
        table: Table,
        means: Means,
        tokens: Tokens,
        *,
        on_tokens: Callable[[], None] = lambda: None,
        events: Events = lambda name, identity, data: [],
    ) -> None:
        """`on_tokens` is called when there is another token, or one less; `events` says what a transition has to put
        into etcd beside its own key."""
        self._settings = settings
        self._address = address
        self._keys = keys
        self._table = table
        self._disk = SavedInstances(settings.state_path / "instances.json")
        self._permits = Permits(commands=settings.checks.commands, ports=Ports(settings.checks.ports))
        self._means = means
        self.refused: dict[Identity, str] = {}
        """Instances whose health policy asks for what this agent may not do, and why."""
        self._checks: dict[Identity, Check] = {}
        self._running: dict[Identity, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._leaving: set[Identity] = set()
        self._stopping = False
        self.local: dict[Identity, Local] = {}
        self.renewals = Renewals()
        self._places = Places(self.local, self.renewals, table)
        self.tokens = tokens
        self._on_tokens = on_tokens
        self.published = Published(settings.host, keys, holder, events, self.refused, table)

    # Registering.

    def load(self) -> None:
        """Take what agent.toml declares, and what was registered before a restart."""
        saved = self._disk.read()
        self.renewals.load(saved.get("renew_within"))
        instances = saved.get("instances", [])
        read = [self.tokens.load(saved.get("tokens", []), time.time()), isinstance(instances, list)]
        read += map(self._load, instances if read[1] else ())
        for declared in self._settings.instances:
            try:
                self._add(declared, "agent.toml", ROOT)
            except Flaw as fault:
                log.error("an instance of agent.toml is not registered", service=declared.service, reason=str(fault))
        self.tokens.keep_only(set(self.local), time.time())
        if not all(read):
            self._disk.set_aside()
            self._save()

    def _load(self, raw: Any) -> bool:
        """As `register`, of what an agent wrote before; a check that it may not do any more is dropped. False, and
        said, when it is of no use."""
        uid, anywhere = owner(raw)
        try:
            registration = convert(raw, Registration)
            try:
                identity, _ = self._add(registration, "admin", uid, anywhere=anywhere)
            except Flaw as fault:
                if not fault.path.startswith("$.health."):
                    raise
                log.warning("a check on disk is dropped", service=registration.service, reason=str(fault))
                without = msgspec.structs.replace(registration, health=None)
                identity, _ = self._add(without, "admin", uid, anywhere=anywhere)
            self.renewals.loaded(identity)
        except (Flaw, ValueError) as error:
            log.warning("a registration on disk is of no use any more", error=str(error))
            return False
        return True

    def register(self, registration: Registration, peer: User, *, operates: bool) -> Registered:
        """Register an instance for a user; again is nothing new. Who operates may register what is not on this host.

        Raises Flaw that says what is wrong and where; NotYours and TooMany are Faults.
        """
        self._refuse_others(registration, peer, operates)
        self._refuse_foreign(identity_of(registration, self._settings.host))
        standing = self.local.get(identity_of(registration, self._settings.host))
        uid = peer.uid if standing is None else standing.uid
        within = registration.renew_within
        within_s = None if within is None else bounded("$.renew_within", within, LEAST_S, MOST_S)
        (service, identity), replaced = self._add(registration, "admin", uid, anywhere=operates)
        self.renewals.renewed((service, identity), within_s)
        token = ""
        if not self.tokens.has(service, identity):
            token = self.tokens.issue(service, identity, time.time(), registration.token)
            self._on_tokens()
        self._save()
        return Registered(service, identity, token, tuple(map("/".join, replaced)))

    def is_of(self, identity: Identity, peer: User) -> bool:
        """Whether an instance is this user's."""
        local = self.local.get(identity)
        return local is not None and local.source == "admin" and local.uid == peer.uid

    def new_token(self, identity: Identity) -> str:
        """Another token for an instance that is here; the one before ends soon."""
        token = self.tokens.issue(*identity, time.time())
        self._on_tokens()
        self._save()
        return token

    def _refuse_others(self, wanted: Registration, peer: User, operates: bool) -> None:
        """Raises Flaw: what stands is another user's, or one has enough."""
        identity = identity_of(wanted, self._settings.host)
        standing = self.local.get(identity)
        if standing is not None:
            if not operates and not self.is_of(identity, peer):
                raise NotYours("$.id", f"{'/'.join(identity)} belongs to {owner_of(standing)}; choose another id")
            return
        most = self._settings.local.max_instances
        if sum(local.uid == peer.uid and local.source == "admin" for local in self.local.values()) >= most:
            raise TooMany(
                "$", f"{peer} has registered {most} instances; local.max_instances in agent.toml allows no more"
            )

    def _add(self, declared: InstanceSettings, source: str, uid: int, *, anywhere: bool = False) -> Added:
        service, identity = identity_of(declared, self._settings.host)
        address = declared.address or self._address
        try:
            check_address(address)
        except Malformed as error:
            raise Flaw(error.path, error.reason) from None
        listener = self._means.own.belongs(address, declared.port)
        if listener:
            raise Flaw("$.port", f"{address}:{declared.port} is {listener}; an instance is a service beside it")
        if source == "admin" and not anywhere and not self._is_ours(address):
            what = "register it with the agent there, or declare it in agent.toml"
            raise Flaw("$.address", f"{address} is no address of this host; {what}")
        record = Instance(
            address=address,
            port=declared.port,
            version=declared.version,
            zone=declared.zone or self._settings.zone,
            weight=declared.weight,
            agent=self._settings.host,
            metadata=declared.metadata,
        )
        try:
            own_check = declared.checked
        except Flaw as fault:
            raise Flaw(f"$.health{fault.path[1:]}", fault.reason) from None
        refused = self._permits.of_registration(own_check, declared.port) if own_check and source == "admin" else None
        if refused is not None:
            raise Flaw(f"$.health{refused.path[1:]}", refused.reason)
        local = Local(record, own_check, source, uid, anywhere)
        replaced = self._places.yields((service, identity), local, operates=anywhere)
        for other in replaced:
            self.forget(other, f"{service}/{identity} was registered with its address and port")
        self._put((service, identity), local)
        return (service, identity), replaced

    def _is_ours(self, address: str) -> bool:
        """Whether it is this host's; what agent.toml names is, whatever the host says."""
        declared = (instance.address for instance in self._settings.instances)
        return address in (self._address, *declared) or is_here(address)

    def _refuse_foreign(self, identity: Identity) -> None:
        """Raises Taken for an id that another has, as far as etcd has told: the transaction has the last word."""
        if who := self.published.taken(identity):
            raise Taken("$.id", who)
        standing = self.published.foreign(identity)
        if standing is not None and identity not in self.local:
            raise Taken("$.id", held(self._keys, *identity, standing))

    async def admitted(self, registered: Registered) -> None:
        """Wait until etcd has said whether a newcomer may have its id. Raises Taken, and then it is not registered. An
        etcd that is away says nothing: then it is known later, and `taken` has it."""
        identity = (registered.service, registered.id)
        with trio.move_on_after(ADMIT_S):
            await self.published.settled()
        if who := self.published.taken(identity):
            self.forget(identity, who)
            raise Taken("$.id", who)

    def taken(self) -> dict[Identity, str]:
        """Instances of this host that are not in the mesh, because another has their id; and who."""
        return {identity: who for identity in self.local if (who := self.published.taken(identity))}

    def _put(self, identity: Identity, local: Local) -> None:
        before = self.local.get(identity)
        self._leaving.discard(identity)
        self.local[identity] = local
        if before is None or identity not in self._checks:
            self._begin(identity, local)
        elif before.record != local.record or before.own_check != local.own_check:
            self._checks[identity].subject = Subject(*identity, local.record)
            self.refresh()
        self.published.put(identity, local.record, draining=self._stopping)

    def _begin(self, identity: Identity, local: Local) -> None:
        healthy = self._known_health(identity)
        subject = Subject(*identity, local.record)

        def tell(transition: Transition) -> None:
            self._on_transition(identity, transition)

        check = Check(subject, self._policy(identity, local), healthy, tell, self._means)
        self._checks[identity] = check
        if healthy is None:
            self.published.put_health(identity, check.policy.initially, UNCHECKED)
        else:
            self.published.put_health(identity, healthy, "known from before")
        if self._nursery is not None:
            self._nursery.start_soon(self._run, identity, check)

    def adopt_verdicts(self) -> None:
        """Take over what etcd says of our instances from before a crash, where we have no verdict yet."""
        for identity, check in self._checks.items():
            healthy = self._known_health(identity)
            if healthy is not None and check.adopt_verdict(healthy):
                self.published.put_health(identity, healthy, "known from before")

    def stands(self) -> bool:
        """Whether the table has every instance of this host, with the verdict of a first check."""
        return all(
            (check.asked and self._known_health(identity) is check.healthy) or self.published.taken(identity)
            for identity, check in self._checks.items()
        )

    def checks(self) -> dict[Identity, Check]:
        """Of the instances of this host."""
        return dict(self._checks)

    def unable(self) -> dict[Identity, str]:
        """Instances that this host cannot check now, and why: they are as they were."""
        return {identity: check.unable for identity, check in self._checks.items() if check.unable}

    def _known_health(self, identity: Identity) -> bool | None:
        standing = self.published.standing(identity)
        return standing[1].healthy if standing is not None and standing[1] is not None else None

    def _policy(self, identity: Identity, local: Local) -> HealthPolicy:
        """What is in force for it; its port alone where that is more than may be done here."""
        found = None if local.own_check else self._table.in_force.health_policy(identity[0])
        fault = self._permits.of_policy(found, local.record.port) if found is not None else None
        if found is None or fault is None:
            self.refused.pop(identity, None)
            return local.own_check or found or DEFAULT_CHECK
        reason = f"only its port is checked, for of its health policy {fault.path}: {fault.reason}"
        if self.refused.get(identity) != reason:
            log.warning("a health policy is not carried out", service=identity[0], instance=identity[1], reason=reason)
        self.refused[identity] = reason
        return msgspec.structs.replace(found, http=None, command=None, tcp=TcpCheck())

    # Checking.

    async def run(self) -> None:
        """Check every instance until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for identity, check in self._checks.items():
                nursery.start_soon(self._run, identity, check)
            nursery.start_soon(self.renewals.run, self._on_not_renewed)
            while True:
                await trio.sleep(EXPIRE_EVERY_S)
                if self.tokens.expire(time.time()):  # those of instances that have left
                    self._on_tokens()
                    self._save()

    async def _run(self, identity: Identity, check: Check) -> None:
        with trio.CancelScope() as scope:
            self._running[identity] = scope
            await check.run()

    def refresh(self) -> None:
        """Policies changed: every check goes on under what applies to it now."""
        for identity, check in self._checks.items():
            before = self.refused.get(identity)
            check.adopt(self._policy(identity, self.local[identity]))
            if self.refused.get(identity) != before:
                self.published.put_verdict_again(identity)

    def hear(self, service: str, identity: str, ok: bool, reason: str) -> bool:
        """An instance's own word; False when there is no such instance here."""
        check = self._checks.get((service, identity))
        if check is None:
            return False
        check.hear(ok, reason)
        return True

    def _on_transition(self, identity: Identity, transition: Transition) -> None:
        word = "healthy" if transition.healthy else "unhealthy"
        log.info(f"instance {word}", service=identity[0], instance=identity[1], reason=transition.reason)
        local = self.local.get(identity)
        before = state_before(self.published.verdicts.get(identity), transition.healthy)
        data: dict[str, Any] = {"before": before, "after": word, "reason": transition.reason}
        if local is not None:
            data |= {"version": local.record.version, "zone": local.record.zone}
        self.published.put_health(identity, transition.healthy, transition.reason, data)

    # Leaving.

    def drain(self, identities: Iterable[Identity]) -> None:
        """Say that instances are on their way out: they get no new requests."""
        for identity in identities:
            local = self.local.get(identity)
            if local is not None:
                self.published.put(identity, local.record, draining=True)

    def leave(self) -> None:
        """The agent stops: all of them drain, whatever is registered or renewed meanwhile."""
        self._stopping = True
        self.drain(self.local)

    def farewell(self) -> list[Put]:
        """Events that tell that every instance of this host goes, in order."""
        return self.published.farewell(list(self.local))

    def _on_not_renewed(self, identity: Identity, within_s: float) -> None:
        """Who registered it is not there any more; the program may be, and finishes what it has."""
        self._leaving.add(identity)
        self.drain([identity])
        assert self._nursery is not None, "it is the one that asks"
        self._nursery.start_soon(self._end_not_renewed, identity, f"it was not renewed for {within_s:g} s")

    async def _end_not_renewed(self, identity: Identity, reason: str) -> None:
        await trio.sleep(ABANDONED_S)
        if identity in self._leaving:  # not registered again meanwhile
            self.forget(identity, reason, orderly=False)

    def forget(self, identity: Identity, reason: str = DEREGISTERED, *, orderly: bool = True) -> None:
        """Take an instance out altogether."""
        self._leaving.discard(identity)
        self.renewals.forget(identity)
        local = self.local.pop(identity, None)
        self._checks.pop(identity, None)
        self.refused.pop(identity, None)
        scope = self._running.pop(identity, None)
        if scope is not None:
            scope.cancel()
        log.info("instance gone", service=identity[0], instance=identity[1], reason=reason)
        self.published.drop(identity, local, orderly=orderly, reason=reason)
        self.tokens.retire(*identity, time.time())
        self._save()

    async def deregister(
        self, identity: Identity, spread: Callable[[int], Any], spread_s: float, died: str = ""
    ) -> int | None:
        """Drain an instance; it is deleted once the word has spread. Returns the revision of the word. `died`: how its
        program has ended by itself, which is no leave in order, and is said of its health at once.

        None when etcd does not take the word in time: the instance is forgotten at once then.
        """
        self._leaving.add(identity)
        if died:
            self._running.pop(identity, trio.CancelScope()).cancel()
            known = self.published.verdicts.get(identity, (True, ""))
            if known[0] or known[1] == UNCHECKED:
                self._on_transition(identity, Transition(healthy=False, reason=died))
            else:
                self.published.put_health(identity, False, died)
        self.renewals.forget(identity)
        self.tokens.retire(*identity, time.time())  # whoever takes its name meanwhile gets one of its own
        self.drain([identity])
        with trio.move_on_after(spread_s):
            revision = await self.published.settled()
            if self._nursery is not None:
                self._nursery.start_soon(self._finish_leaving, identity, revision, spread, spread_s, died)
            return revision
        self.forget(identity, died or DEREGISTERED, orderly=not died)
        return None

    async def _finish_leaving(self, identity: Identity, revision: int, spread: Any, spread_s: float, died: str) -> None:
        with trio.move_on_after(spread_s):
            await spread(revision)
        if identity in self._leaving:  # not registered again meanwhile
            self.forget(identity, died or DEREGISTERED, orderly=not died)

    def _save(self) -> None:
        self._disk.write(self.local, self.tokens, self.renewals)
