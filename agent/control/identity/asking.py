"""Requests of this host put into etcd, answers taken from there, and what is held told to the mesh.

Laws
- A key is on disk before it is asked with, and its certificate before it is shown: a crash at any moment loses neither.
- What stands in etcd as it should is not put again: a request that issuers already work on stays the one that it is.
- Keys of `requests/` and `hosts/<host>/trust` are put apart from what else is this agent's: a role that was made for
  the version before may not write them, and etcd refuses a transaction as a whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random
from typing import Final

import structlog
import trio

from agent.control.identity.around import OnDisk
from agent.control.identity.files import Files, Kept
from agent.control.identity.svids import Svids
from registry.identity_records import Request, Signed
from registry.keys import ISSUER_REQUEST, Key, Keys, Room
from registry.mirror import Mirror, Update
from registry.records import Malformed, decode, encode
from registry.store import Store, StoreError, Unavailable, prefix_end

IN_VAIN: Final = 3
"""So often asked by way of etcd, issuers are asked themselves."""
AGAIN_S: Final = 1.0
LOOK_EVERY_S: Final = 2.0
"""Whether the lease is another."""
SKEW_S: Final = 5.0
"""Clocks that differ by less are none that is off."""
log = structlog.get_logger()


class Asking:
    """Of one agent."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        host: str,
        svids: Svids,
        files: Files,
        *,
        clock: Callable[[], float],
        chance: Random,
        disk: OnDisk,
        ask_peers: Callable[[str, str], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """`changed`: something else is held. `ask_peers`: asks issuers themselves, for a name, with a request."""
        self._store = store
        self._keys = keys
        self._host = host
        self._svids = svids
        self._files = files
        self._clock = clock
        self._chance = chance
        self._disk = disk
        self._ask_peers = ask_peers
        self._changed = changed
        self._answers: dict[str, Signed] = {}
        """What came and was not looked at."""
        self._asked: dict[str, tuple[int, float]] = {}
        """The revision of each request that was put, and when (s of the epoch)."""
        self._useless: list[tuple[str, list[Kept]]] = []
        self._wake = trio.Event()
        self._tidied = False
        place = f"{keys.room(Room.SIGNED)}{host}/"
        self.mirror = Mirror(store, place, prefix_end(place), self._on_signed)
        self.malformed: dict[str, str] = {}
        """Answers that are none, and why."""
        self.clocks: dict[str, float] = {}
        """By how much issuers' clocks are ahead of ours, in seconds, where that is certain."""
        self.error = ""
        """Why etcd does not take what is asked for; empty: it does."""

    def wake(self) -> None:
        """There may be something to ask for, or to take."""
        self._wake.set()

    def let_go(self, gone: list[tuple[str, list[Kept]]]) -> None:
        """Names that are not wanted any more, and files that are of no use."""
        self._useless += gone
        if gone:
            self.wake()

    def offer(self, name: str, chain: str) -> None:
        """A certificate that came another way."""
        self._answers[name] = Signed(chain=chain, at=datetime.fromtimestamp(self._clock(), UTC))
        self.wake()

    def _on_signed(self, update: Update) -> None:
        for change in update.changes:
            key = self._keys.parse(change.key)
            if not isinstance(key, Key) or key.first != self._host:
                continue
            self.malformed.pop(change.key, None)
            if change.value is None:
                self._answers.pop(key.second, None)
                continue
            try:
                self._answers[key.second] = decode(Signed, change.value)
            except Malformed as error:
                self.malformed[change.key] = str(error)
        self.wake()

    async def run(self) -> None:
        """Ask and take, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.mirror.run)
            while True:
                self._wake = trio.Event()
                await self._turn()
                await self._wake.wait()

    async def _turn(self) -> None:
        """All that is due now; etcd that does not take it is told, and asked again by the clock."""
        for name, answer in list(self._answers.items()):
            if self._answers.get(name) is answer:
                del self._answers[name]
                await self._take(name, answer)
        due = self._svids.due(self._clock())
        try:
            if self._away():
                raise Unavailable(self.mirror.state.error)
            await self._drop_useless()
            while due:
                await self._ask(due[0])
                if self._svids.in_vain(due[0]) >= IN_VAIN:
                    await self._ask_past_etcd(due[0])
                del due[0]
            await self._tidy()
        except StoreError as error:
            if str(error) != self.error:
                log.warning("cannot ask for certificates; trying on (docs/identity.md)", error=str(error))
            self.error = str(error)
            for name in due:
                await self._ask_past_etcd(name)
        else:
            self.error = ""

    # Answers.

    async def _take(self, name: str, answer: Signed) -> None:
        self._compare_clocks(name, answer)
        if answer.refused:
            revision, _ = self._asked.get(name, (0, 0.0))
            if answer.request >= revision > 0:
                self._svids.refused(name, f"{answer.issuer} says: {answer.refused}"[:1000])
                self._changed()
            return
        fitting = self._svids.fitting(name, answer.chain, self._clock())
        if fitting is None:
            self._changed()
            return
        kept = await self._disk(self._files.hold, name, fitting.key, fitting.chain)
        if kept is None:
            self._svids.refused(name, "the state directory takes no file; see the log")
            return
        useless = self._svids.took(kept, self._clock(), self._chance.random())
        self._useless.append(("", useless))
        log.info("a certificate is held", name=name, until=kept.chain[0].not_valid_after_utc.isoformat())
        self._changed()

    def _compare_clocks(self, name: str, answer: Signed) -> None:
        """An answer is made after its request, and before it comes."""
        revision, asked_s = self._asked.get(name, (0, 0.0))
        if not revision or answer.request != revision or not answer.issuer:
            return
        at_s, now_s = answer.at.timestamp(), self._clock()
        ahead_s = at_s - now_s if at_s > now_s + SKEW_S else min(0.0, at_s - asked_s)
        if abs(ahead_s) > SKEW_S:
            self.clocks[answer.issuer] = ahead_s
        else:
            self.clocks.pop(answer.issuer, None)

    # Requests.

    def _away(self) -> bool:
        """Whether etcd is known not to be there."""
        return not self.mirror.state.connected and bool(self.mirror.state.error)

    async def _request(self, name: str) -> str:
        """What to ask with; empty: the disk takes no key."""
        if not self._svids.pending(name):
            kept = await self._disk(self._files.make_key, name)
            if kept is None:
                self._svids.refused(name, "the state directory takes no file; see the log")
            else:
                self._svids.made_key(kept)
        return self._svids.pending(name)

    async def _ask_past_etcd(self, name: str) -> None:
        """Issuers themselves; an operator, who signs intermediates, is no peer."""
        csr = await self._request(name)
        self._svids.asked(name, self._clock(), self._chance.random())
        if csr and name != ISSUER_REQUEST:
            await self._ask_peers(name, csr)

    async def _ask(self, name: str) -> None:
        """Have a request of ours stand. Raises StoreError."""
        csr = await self._request(name)
        stands = not csr or await self._stands(name, csr)
        now_s = self._clock()
        if stands:
            self._svids.asked(name, now_s, self._chance.random())
            return
        record = Request(csr=csr, at=datetime.fromtimestamp(now_s, UTC))
        revision = await self._store.put(self._keys.request(self._host, name), encode(record))
        self._asked[name] = (revision, now_s)
        self._svids.asked(name, now_s, self._chance.random())

    async def _stands(self, name: str, csr: str) -> bool:
        """Whether a request stands that is still to be answered."""
        found = await self._store.get(self._keys.request(self._host, name))
        if found is None:
            return False
        try:
            if decode(Request, found.value).csr != csr:
                return False
            if name == ISSUER_REQUEST:
                return True
            signed = await self._store.get(self._keys.signed(self._host, name))
            return signed is None or decode(Signed, signed.value).request != found.mod_revision
        except Malformed:
            return False

    async def _drop_useless(self) -> None:
        """Files, and requests for what is not wanted any more. Raises StoreError."""
        while self._useless:
            name, kept = self._useless[0]
            for each in kept:
                self._files.drop(each.path)
            if name and not self._svids.pending(name):
                await self._store.delete(self._keys.request(self._host, name))
                self._asked.pop(name, None)
            del self._useless[0]

    async def _tidy(self) -> None:
        """Once: requests of a run before, for what is not here any more. Raises StoreError."""
        if self._tidied or not self.mirror.state.synced:
            return
        place = f"{self._keys.room(Room.REQUESTS)}{self._host}/"
        known = self._svids.names()
        for item in (await self._store.range(place, prefix_end(place), keys_only=True)).items:
            if item.key.removeprefix(place) not in known:
                await self._store.delete(item.key)
        self._tidied = True


class Publishing:
    """Keeps one key as it should be, on the agent's lease, apart from the agent's others.

    Law: nothing is said to be held, or believed, that some worker does not show yet: who hears of it dials at once.
    """

    def __init__(self, store: Store, key: str, lease: Callable[[], int], proves: Callable[[], Awaitable[bool]]) -> None:
        """`proves`: whether all workers have taken what they were told."""
        self._proves = proves
        self._store = store
        self._key = key
        self._lease = lease
        self._wanted: bytes | None = None
        self._stands: tuple[bytes | None, int] | None = None
        """What was put, and on which lease; None: not known."""
        self._error = ""
        self._wake = trio.Event()

    def want(self, value: bytes | None) -> None:
        """What is to stand there; None: nothing."""
        if value != self._wanted:
            self._wanted = value
            self._wake.set()

    def hear(self, key: str, value: bytes | None) -> None:
        """What stands there now."""
        if key == self._key and (self._stands is None or value != self._stands[0]):
            self._stands = None
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_after(LOOK_EVERY_S):
                await self._wake.wait()
            self._wake = trio.Event()
            lease = self._lease()
            wanted = self._wanted
            if not lease or self._stands == (wanted, lease) or (self._stands is None and wanted is None):
                continue
            if wanted is not None and not await self._proves():
                self._wake.set()
                await trio.sleep(AGAIN_S)
                continue
            try:
                if wanted is None:
                    await self._store.delete(self._key)
                else:
                    await self._store.put(self._key, wanted, lease=lease)
                self._stands, self._error = (wanted, lease), ""
            except StoreError as error:
                if str(error) != self._error:
                    log.warning("cannot tell the mesh what this host can prove; trying on", error=str(error))
                self._error = str(error)
                await trio.sleep(AGAIN_S)
