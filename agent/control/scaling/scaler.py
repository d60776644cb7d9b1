"""Advises how many instances services should have, where a `scale` policy says so.

Laws
- One agent advises for a service: who holds `scaling/<service>` on its lease. What it writes is fenced by that claim,
  so one that was paused and comes back changes nothing.
- Advice is put into etcd when it changes, in one transaction with the event that tells of it, and stays there when the
  agent goes: whoever claims next goes on with it. Where the policy is gone, advice is deleted.
- Figures are asked of all agents once for all services that are claimed here, every FINE_S; who does not answer in time
  is missing, and nothing is taken away by figures that are not whole.
- The same agent is the first for all services, so that one asks; the next ones take over, each a little later.
- A policy that is only watched (`mode: audit`) advises nobody: what it would say is shown, and logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog
import trio

from agent.control.asking.tree import Merged
from agent.control.figures.figures import Figures
from agent.control.host.clock import now_text
from agent.control.mesh.documents.in_force import Policy
from agent.control.mesh.table import Table
from agent.control.scaling.seen import Heard, seen
from agent.figures.questions import FINE_S, FiguresTold
from policies.hashing import hash64
from policies.kinds.scale.decide import Advice, Advisor, Compiled, Seen, compile
from policies.kinds.scale.document import Scale
from policies.kinds.webhook.event import Value
from policies.language.names import candidates
from registry.claim import Claim, act, give_up, take
from registry.keys import Keys, Room, Unknown
from registry.lease import Holder
from registry.records import Advised, Claimed, Malformed, decode, encode
from registry.store import Delete, Put, Store, StoreError, prefix_end

ASK_S: Final = 1.5
"""How long agents are waited for."""
RANKS: Final = 3
"""Agents that try to claim."""
STEP_S: Final = 4.0
"""How much longer each of them leaves a claim free than the one before it."""
SWEEP_S: Final = 60.0
"""Between two looks for advice that nobody is in charge of."""
MOST: Final = 500
"""Services that one mesh may have scaled."""
log = structlog.get_logger()


class Wanted(NamedTuple):
    """A service with its policy."""

    pattern: str
    revision: int
    document: Scale
    audit: bool


class Standing(NamedTuple):
    """What is advised, and by what."""

    wanted: Wanted
    advice: Advice
    seen: Seen


class Tell(Protocol):
    """`EventDetector.own`."""

    def __call__(self, name: str, parts: Mapping[str, str], data: Mapping[str, Value]) -> list[Put]:
        """What goes into the transaction."""
        ...


class Scaler:
    """One agent's part in it."""

    def __init__(
        self,
        table: Table,
        store: Store,
        keys: Keys,
        holder: Holder,
        figures: Figures,
        tell: Tell,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._table = table
        self._store = store
        self._keys = keys
        self._holder = holder
        self._figures = figures
        self._tell = tell
        self._clock = clock
        self._claims: dict[str, tuple[Claim, int]] = {}
        """By service: the claim, and the lease that it stands on."""
        self._advisors: dict[str, tuple[Advisor, Compiled, Scale]] = {}
        self._free_since: dict[str, float] = {}
        self._look_again = 0.0
        self._sweep_again = 0.0
        self._put: dict[str, Advised] = {}
        self.standing: dict[str, Standing] = {}
        """Of services that are claimed here."""
        self.refused = ""
        """Why etcd takes no advice; empty: it does."""

    # Which services.

    def patterns(self) -> list[str]:
        """That have a policy: the sampler keeps short windows for them."""
        return sorted({*self._documents(enforced=True), *self._documents(enforced=False)})

    def _documents(self, *, enforced: bool) -> Mapping[str, Policy]:
        return self._table.in_force.enforced.get("scale", {}) if enforced else self._table.audits.watched("scale")

    def wanted(self) -> dict[str, Wanted]:
        """By service, for which something runs: the most specific policy, of those that are enforced; else of those
        that are watched."""
        sets = [(self._documents(enforced=True), False), (self._documents(enforced=False), True)]
        found: dict[str, Wanted] = {}
        if any(policies for policies, _ in sets):
            for name, service in self._table.services.items():
                if service.instances and len(found) < MOST:
                    for policies, audit in sets:
                        pattern = next((each for each in candidates(name) if each in policies), None)
                        policy = policies[pattern] if pattern is not None else None
                        if pattern is not None and policy is not None and isinstance(policy.document, Scale):
                            found[name] = Wanted(pattern, policy.revision, policy.document, audit)
                            break
        return found

    # Advising.

    async def run(self) -> None:
        """Advise, until cancelled."""
        try:
            while True:
                await trio.sleep(FINE_S)
                try:
                    await self.look()
                except StoreError as error:
                    if str(error) != self.refused:
                        log.warning("advice cannot be put", error=str(error))
                    self.refused = str(error)
                except Exception:  # a mistake in it is no reason to end an agent
                    log.exception("nothing is advised")
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                for claim, lease in self._claims.values():
                    if lease == self._holder.lease:
                        await self._give_up(claim)

    async def look(self) -> None:
        """Claim what is free, ask, and advise."""
        wanted = self.wanted()
        await self._let_go(wanted)
        await self._claim(sorted(wanted.keys() - self._claims.keys()))
        await self._sweep()
        rules = [self._advisor(service, wanted[service])[1] for service in self._claims]
        heard: dict[int, Heard] = {}
        async with trio.open_nursery() as nursery:
            for length_s in {int(length) for each in rules for length in (each.panic_s, each.stable_s)}:
                nursery.start_soon(self._ask, length_s, heard)
        for service in list(self._claims):
            try:
                await self._advise(service, wanted[service], heard)
            except StoreError:
                raise
            except Exception:  # one document is no reason to advise nobody
                log.exception("nothing is advised", service=service)
        self.refused = ""

    async def _ask(self, last_s: int, heard: dict[int, Heard]) -> None:
        told: Merged[FiguresTold] = await self._figures.ask(self._figures.asked(last_s, fine=True), ASK_S)
        heard[last_s] = Heard(told.answer, {host: each.reason for host, each in told.missing.items()})

    def _advisor(self, service: str, wanted: Wanted) -> tuple[Advisor, Compiled, Scale]:
        known = self._advisors.get(service)
        if known is not None and known[2] == wanted.document:
            return known
        rules = compile(wanted.document)
        if known is None:
            record = self._table.services[service]
            there = sum(each.state != "draining" for each in record.instances.values())
            before = self._put.get(service)
            advisor = Advisor(rules, there, self._clock(), before.replicas if before is not None else 0)
        else:
            advisor = known[0]
            advisor.configure(rules)
        self._advisors[service] = (advisor, rules, wanted.document)
        return self._advisors[service]

    async def _advise(self, service: str, wanted: Wanted, heard: Mapping[int, Heard]) -> None:
        advisor, rules, _ = self._advisor(service, wanted)
        known = self._table.services.get(service)
        if known is None:
            return
        now = seen(service, known, heard[int(rules.stable_s)], heard[int(rules.panic_s)], rules.stable_s)
        advice = advisor.advise(now, self._clock())
        self.standing[service] = Standing(wanted, advice, now)
        if wanted.audit:
            if advice.replicas != advice.before:
                log.info("would be advised", service=service, replicas=advice.replicas, reason=advice.reason)
            return
        before = self._put.get(service)
        if before is None or (before.replicas, before.panic, before.revision) != (
            *(advice.replicas, advice.panic, wanted.revision),
        ):
            await self._write(service, wanted, advice, now, before)

    async def _write(self, service: str, wanted: Wanted, advice: Advice, now: Seen, before: Advised | None) -> None:
        record = Advised(
            replicas=advice.replicas,
            before=before.replicas if before is not None else 0,
            instances=now.instances,
            reason=advice.reason,
            panic=advice.panic,
            least=wanted.document.min,
            most=wanted.document.max,
            policy=f"scale/{wanted.pattern}",
            revision=wanted.revision,
            agent=self._table.host,
            at=now_text(),
        )
        events: Sequence[Put] = ()
        if advice.replicas != (before.replicas if before is not None else now.instances):
            data: dict[str, Value] = {
                "before": before.replicas if before is not None else now.instances,
                "after": advice.replicas,
                "reason": advice.reason,
                "instances": now.instances,
                "panic": advice.panic,
            }
            events = self._tell("scale.advised", {"service": service}, data)
        claim, _ = self._claims[service]
        if (await act(self._store, claim, [Put(self._keys.advice(service), encode(record)), *events])).succeeded:
            self._put[service] = record
            log.info("advised", service=service, replicas=advice.replicas, reason=advice.reason)
        else:
            self._forget(service)

    # Who.

    async def _claim(self, services: Sequence[str]) -> None:
        """Those of them that are free, where it is this agent's turn."""
        place, lease, now = self._rank(), self._holder.lease, self._clock()
        self._free_since = {service: self._free_since.get(service, now) for service in services}
        if not services or place >= RANKS or not lease or now < self._look_again:
            return
        self._look_again = now + (place + 1) * STEP_S
        room = self._keys.room(Room.SCALING)
        held = {item.key: item for item in (await self._store.range(room, prefix_end(room))).items}
        for service in services:
            key = self._keys.scaling(service)
            standing = held.get(key)
            if standing is not None and standing.lease == lease:
                await self._begin(service, Claim(key, standing.create_revision), lease)
            elif standing is not None:
                self._free_since[service] = now
            elif now - self._free_since[service] >= place * STEP_S:
                claim = await take(self._store, key, encode(Claimed(agent=self._table.host, at=now_text())), lease)
                if claim is not None:
                    await self._begin(service, claim, lease)

    async def _sweep(self) -> None:
        """Delete advice whose policy went while nobody advised: no instance was there, or who did had just died."""
        lease, now = self._holder.lease, self._clock()
        if self._rank() or not lease or now < self._sweep_again:
            return
        self._sweep_again = now + SWEEP_S
        room, policies = self._keys.room(Room.SCALE), self._documents(enforced=True)
        for item in (await self._store.range(room, prefix_end(room))).items:
            key = self._keys.parse(item.key)
            if isinstance(key, Unknown) or key.first in self._claims:
                continue
            if any(pattern in policies for pattern in candidates(key.first)):
                continue
            value = encode(Claimed(agent=self._table.host, at=now_text()))
            claim = await take(self._store, self._keys.scaling(key.first), value, lease)
            if claim is not None:
                await act(self._store, claim, [Delete(item.key)])
                await self._give_up(claim)

    async def _begin(self, service: str, claim: Claim, lease: int) -> None:
        """It is ours: what was advised before counts."""
        told = await self._store.get(self._keys.advice(service))  # who cannot read it begins the next time
        self._forget(service)
        self._claims[service] = (claim, lease)
        if told is not None:
            try:
                self._put[service] = decode(Advised, told.value)
            except Malformed as error:
                log.warning("what stands there is no advice, and is written over", service=service, reason=str(error))
        log.info("this agent advises", service=service)

    def _rank(self) -> int:
        """Of agents of this version, of which each knows the kind: who is before this one."""
        agents, host = self._table.agents, self._table.host
        if host not in agents:
            return RANKS
        own = hash64(f"scale/{host}")
        same = [other for other, record in agents.items() if record.version == agents[host].version]
        return sum((hash64(f"scale/{other}"), other) > (own, host) for other in same)

    async def _let_go(self, wanted: Mapping[str, Wanted]) -> None:
        for service, (claim, lease) in list(self._claims.items()):
            if lease != self._holder.lease:
                self._forget(service)
            elif service not in wanted or wanted[service].audit:
                has_policy = any(pattern in candidates(service) for pattern in self._documents(enforced=True))
                if service in self._put and not has_policy:
                    await act(self._store, claim, [Delete(self._keys.advice(service))])
                    self._put.pop(service, None)
                if service not in wanted:
                    await self._give_up(claim)
                    self._forget(service)

    def _forget(self, service: str) -> None:
        self._claims.pop(service, None)
        self._advisors.pop(service, None)
        self._put.pop(service, None)
        self.standing.pop(service, None)

    async def _give_up(self, claim: Claim) -> None:
        try:
            await give_up(self._store, claim)
        except StoreError as error:
            log.debug("a claim is left to its lease", error=str(error))
