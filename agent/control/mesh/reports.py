"""What an agent reports into etcd besides its instances: what its version knows, acknowledgements, and why policies
were refused."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Final

import msgspec
import structlog
import trio

import agent
from agent import build, frames, questions
from agent.control.host.clock import now_text, text_of
from agent.control.host.etcd_rights import may_write
from agent.control.mesh.documents.audits import Audits
from agent.control.mesh.documents.in_force import InForce, Place, Refused
from agent.control.mesh.table import Table
from agent.control.workers.fleet import Fleet
from policies.catalogue import KINDS
from policies.vocabulary import EXTRAS, vocabulary
from registry.backoff import Backoff
from registry.keys import MOVING, Keys, own
from registry.lease import Holder
from registry.records import MOVED, Ack, Layout, Rejection, Seen, Version, encode
from registry.store import Compare, Delete, Put, Store, StoreError, prefix_end
from registry.store import Refused as NotAllowed

ACK_AFTER_S: Final = 0.05
ACK_EVERY_S: Final = 0.2
JITTER_S: Final = 0.5
SEEN_EVERY_S: Final = 2.0
VERSION_EVERY_S: Final = 0.2
"""How often it is looked whether there is another lease."""
LAYOUT_EVERY_S: Final = 1.0
HEARD_S: Final = 2.0
"""How long an agent waits to hear of what it has put itself."""
VERSION_AGAIN_S: Final = 5.0
REFUSED_S: Final = 30.0
"""Until the next try, where etcd's roles do not allow it (docs/keys.md)."""
MAX_CALLED: Final = 500
"""Services that a caller is written down with, so that the record stays small."""
PLAIN_STEP_S: Final = 60
"""How exactly it is told when plain text was last seen, and how often at most."""
PLAIN_S: Final = 86_400
MAX_PLAIN: Final = 200
log = structlog.get_logger()


async def acknowledge(fleet: Fleet, holder: Holder, keys: Keys, host: str, newest_change: Callable[[int], int]) -> None:
    """Keep acks/<host> at what every worker runs; at most five times a second.

    A moment late, for while some still converge the word of others that have would only be in their way.
    `newest_change`: up to a revision, of what agents watch.
    """
    said = -1
    while True:
        if fleet.ready and fleet.revision != said:
            await trio.sleep(ACK_AFTER_S)
            said = fleet.revision
            workers = {str(worker.index): worker.revision for worker in fleet.workers.values()}
            newest = newest_change(said)
            ack = Ack(revision=said, newest=newest if newest < said else 0, workers=workers, at=now_text())
            holder.put(keys.ack(host), encode(ack))
            await trio.sleep(ACK_EVERY_S)
        else:
            await fleet.changed()


def known_here() -> Version:
    """What this version knows."""
    return Version(
        version=agent.VERSION,
        build=build.kind(),
        kinds={kind.name: msgspec.to_builtins(vocabulary(kind.name)) for kind in KINDS},
        frames=sorted(frames.KINDS),
        questions=list(questions.PATHS),
        keys=list(MOVING),
        lacks=[name for name, module in EXTRAS.items() if find_spec(module) is None],
    )


async def tell_version(store: Store, holder: Holder, keys: Keys, host: str, version: Version) -> None:
    """Keep versions/<host> on the agent's lease: one put a lease, and another once etcd lets us write more of our own.

    Apart from the agent's other keys, whose transaction etcd would refuse as a whole: a role that was made for the
    version before may not write this one.
    """
    stands_on, failed = (0, [""]), ""
    while True:
        await holder.settled()
        lease = holder.lease
        if stands_on != (lease, version.keys):
            try:
                may = await _may_move(store, keys, host, version.keys)
                if stands_on != (lease, may):
                    told = msgspec.structs.replace(version, keys=may)
                    await store.put(keys.version(host), encode(told), lease=lease)
                    stands_on, failed = (lease, may), ""
                if may != version.keys:
                    await trio.sleep(VERSION_AGAIN_S)
            except StoreError as error:
                if str(error) != failed:
                    failed = str(error)
                    log.warning("cannot tell the mesh what this version knows (docs/keys.md); trying on", error=failed)
                await trio.sleep(VERSION_AGAIN_S)
        await trio.sleep(VERSION_EVERY_S)


async def _may_move(store: Store, keys: Keys, host: str, rooms: list[str]) -> list[str]:
    """Those of some rooms in which etcd lets us write under our host's own key. Raises StoreError."""
    reports = await may_write(store, keys.tally("shoal", host, own=True))
    others = await may_write(store, keys.instance("shoal", own("shoal", host)))
    return [room for room in rooms if (reports if room == "reports" else others)]


async def begin_mesh(store: Store, keys: Keys, host: str, table: Table) -> None:
    """Have a mesh that nothing stands of begin with agents that write under their hosts' own keys; returns once it is
    known whether this is one. For an agent without a table on disk: one that has is no mesh's first."""
    backoff = Backoff(0.1, 2.0)
    word = Layout(state="own_only", at=now_text(), by=f"agent {host}", rooms=list(MOVED))
    while True:
        try:
            empty = [Compare(keys.prefix, create_revision=0, end=prefix_end(keys.prefix))]
            if not (await store.transact(empty, [Put(keys.layout, encode(word))])).succeeded:
                return
            break
        except NotAllowed:
            return  # with roles it is an operator who makes a mesh (docs/keys.md)
        except StoreError:
            await trio.sleep(backoff.next_s())
    log.info("a new mesh: agents write under their hosts' own keys", mesh=keys.mesh)
    with trio.move_on_after(HEARD_S):
        while table.forms.layout is None:  # noqa: ASYNC110 - what we put first would else have to move at once
            await trio.sleep(0.02)


async def keep_layout(store: Store, keys: Keys, table: Table) -> None:
    """Have confirmed/hosts stand again where it is gone: an agent that does not know it writes where others do not."""
    failed = ""
    while True:
        await trio.sleep(LAYOUT_EVERY_S)
        layout = table.forms.layout
        if layout is None or table.forms.stands:
            continue
        try:
            await store.transact([Compare(keys.layout, create_revision=0)], [Put(keys.layout, encode(layout))])
        except StoreError as error:
            if str(error) != failed:
                failed = str(error)
                log.warning("where agents write stands nowhere; say it by `shoal mesh migrate`", error=failed)
            await trio.sleep(REFUSED_S)


class Plain:
    """Who was last seen in plain text, and when: counts are of since ever, and what is asked is who goes on."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._at: dict[tuple[str, str], int] = {}
        """Service and peer: in steps of PLAIN_STEP_S, so that what goes on is written seldom."""

    def look(self, workers: Iterable[Mapping[str, Any]], now_s: float) -> dict[str, dict[str, str]]:
        """As `Seen.plain`. `workers`: what each has counted."""
        step = int(now_s // PLAIN_STEP_S)
        counts: dict[tuple[str, str], int] = {}
        for worker in workers:
            for service, figures in worker["services"].items():
                for peer, count in figures.get("plain", {}).items():
                    counts[service, peer] = counts.get((service, peer), 0) + count
        for pair, count in counts.items():
            if count > self._counts.get(pair, 0):
                self._at[pair] = step
        self._counts |= counts
        recent = sorted(self._at, key=lambda pair: (-self._at[pair], pair))[:MAX_PLAIN]
        self._at = {pair: self._at[pair] for pair in recent if step - self._at[pair] <= PLAIN_S // PLAIN_STEP_S}
        found: dict[str, dict[str, str]] = {}
        for service, peer in sorted(self._at):
            found.setdefault(service, {})[peer] = text_of(self._at[service, peer] * PLAIN_STEP_S)
        return found


async def tell_calls(
    fleet: Fleet, holder: Holder, keys: Keys, host: str, exposed: Callable[[], dict[str, str]]
) -> None:
    """Keep seen/<host> at which service was seen to call which, who sends plain text, and which instances are reached
    around us; written only when there is a new pair, one goes on, or other instances are `exposed`."""
    said: dict[str, list[str]] = {}
    plain = Plain()
    said_plain: dict[str, dict[str, str]] = {}
    said_exposed: dict[str, str] = {}
    while True:
        calls: dict[str, set[str]] = {}
        workers = fleet.counted()
        for worker in workers:
            for service, figures in worker["services"].items():
                for caller in figures["callers"]:
                    calls.setdefault(caller, set()).add(service)
        for caller, services in said.items():
            calls.setdefault(caller, set()).update(services)  # services that are gone are forgotten
        found = {caller: sorted(services)[:MAX_CALLED] for caller, services in sorted(calls.items())}
        found_plain = plain.look(workers, time.time())
        found_exposed = exposed()
        if (found, found_plain, found_exposed) != (said, said_plain, said_exposed):
            said, said_plain, said_exposed = found, found_plain, found_exposed
            told = Seen(calls=found, plain=found_plain, exposed=found_exposed, at=now_text())
            holder.put(keys.seen(host), encode(told))
        await trio.sleep(SEEN_EVERY_S)


async def others_run(store: Store, keys: Keys, table: Table, host: str, revision: int) -> None:
    """Wait until every other live agent has acknowledged a revision."""
    from registry.keys import Room
    from registry.records import Malformed, decode
    from registry.store import prefix_end

    prefix = keys.room(Room.ACKS)
    while True:
        behind = set(table.agents) - {host}
        if not behind:
            return
        try:
            for item in (await store.range(prefix, prefix_end(prefix))).items:
                try:
                    if decode(Ack, item.value).revision >= revision:
                        behind.discard(item.key[len(prefix) :])
                except Malformed:
                    continue  # an agent that says nothing sensible is waited for until the caller's time is up
        except StoreError:
            pass  # etcd is away: the caller's time decides
        if not behind:
            return
        await trio.sleep(0.1)


class Rejections:
    """Keeps rejected/<kind>/<service> in step with what is refused. Every agent refuses the same documents, so each
    waits a random moment and looks whether another has said it already."""

    def __init__(
        self,
        store: Store,
        table: Table,
        host: str,
        of: InForce | Audits,
        rejections: Mapping[Place, Rejection],
        key: Callable[[str, str], str],
    ) -> None:
        """`of`: what is refused is taken from there. `rejections`: what stands in etcd about it, under each `key`."""
        self._store = store
        self._table = table
        self._host = host
        self._of = of
        self._rejections = rejections
        self._key = key
        self._changed = trio.Event()

    def refresh(self) -> None:
        """The table changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        rng = random.Random()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if not self._missing() and not self._outdated():
                continue
            await trio.sleep(rng.random() * JITTER_S)
            try:
                await self._agree()
            except StoreError as error:
                log.warning("cannot say why a policy is refused; trying again", error=str(error))
                await trio.sleep(REFUSED_S if isinstance(error, NotAllowed) else 1)
                self._changed.set()

    def _missing(self) -> dict[tuple[str, str], Refused]:
        return {
            identity: refused
            for identity, refused in self._of.refused.items()
            if not self._said(self._rejections.get(identity), refused)
        }

    def _outdated(self) -> list[tuple[str, str]]:
        return [
            identity
            for identity, standing in self._rejections.items()
            if identity not in self._of.refused and self._may_clear(identity, standing)
        ]

    def _may_clear(self, identity: tuple[str, str], standing: Rejection) -> bool:
        """Not while a live agent refuses this very document, though we do not: it may be of another version."""
        kind, pattern = identity
        policy = self._of.policies.get(kind, {}).get(pattern)
        another = policy is None or policy.revision != standing.revision
        return another or standing.agent == self._host or standing.agent not in self._table.agents

    async def _agree(self) -> None:
        for identity, refused in self._missing().items():
            log.error("policy refused", kind=identity[0], service=identity[1], path=refused.path, reason=refused.reason)
            record = Rejection(
                path=refused.path,
                reason=refused.reason,
                revision=refused.revision,
                agent=self._host,
                at=now_text(),
                last_good=refused.last_good,
            )
            await self._store.put(self._key(*identity), encode(record))
        for identity in self._outdated():
            await self._store.delete(self._key(*identity))

    def _said(self, standing: Rejection | None, refused: Refused) -> bool:
        """Whether somebody has said it of this revision; two versions need not agree on the words."""
        if standing is None or standing.revision != refused.revision:
            return False
        mine = (refused.path, refused.reason, refused.last_good)
        return standing.agent != self._host or (standing.path, standing.reason, standing.last_good) == mine


class HeldRecords:
    """Keeps `held/` in step with what is held; whoever is first writes."""

    def __init__(self, store: Store, keys: Keys, table: Table, host: str) -> None:
        self._store = store
        self._keys = keys
        self._holding = table.distrusted.holding
        self._host = host
        self._changed = trio.Event()

    def refresh(self) -> None:
        """The table changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        rng = random.Random()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if not list(self._holding.unsettled()):
                continue
            await trio.sleep(rng.random() * JITTER_S)
            try:
                await self._agree()
            except StoreError as error:
                log.warning("cannot say which policies are held; trying again", error=str(error))
                await trio.sleep(REFUSED_S if isinstance(error, NotAllowed) else 1)
                self._changed.set()

    async def _agree(self) -> None:
        """Over what was seen, and over nothing else; who was faster is seen soon."""
        for place, hold in list(self._holding.unsettled()):
            key, recorded = self._keys.held(*place), self._holding.recorded.get(place)
            seen = [Compare(key, mod_revision=recorded.revision if recorded is not None else 0)]
            if hold is None:
                await self._store.transact(seen, [Delete(key)])
                continue
            log.error("a policy is held", kind=place[0], service=place[1], reason=hold.reason)
            seen.append(Compare(self._keys.confirmed, mod_revision=self._holding.confirmed))
            record = msgspec.structs.replace(hold, agent=self._host, at=now_text())
            await self._store.transact(seen, [Put(key, encode(record))])
