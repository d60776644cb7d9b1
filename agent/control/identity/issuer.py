"""An issuer at work: requests seen, claimed, judged, signed, and answered in one transaction that is fenced.

Laws
- An answer is put only while the claim is ours, the request is the one that was read, and the grant, the host's
  membership and the revocations that it was judged by are unchanged: whoever was paused meanwhile puts nothing.
- A refusal is an answer too, in words, with the line that would allow it.
- Revocations that a restored etcd has lost are put back, by whichever issuer is first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec
import structlog
import trio

from agent.control.identity.around import Note, unnoted
from agent.control.identity.desk import Asked, Desk, Place
from agent.control.identity.standing import Standing
from agent.control.identity.svids import Held
from agent.identity.certificates import PERSON_S, SERIAL_BYTES, Issuer, Terms, serial_of, to_pem
from agent.identity.issuing import issue, issue_to_person
from agent.identity.spiffe import SpiffeId, agent_id, person_id, service_id
from agent.identity.verdict import Refused
from registry.claim import Claim, give_up, take
from registry.identity_records import Request, Signed, Signing
from registry.keys import AGENT_REQUEST, SERVICE_REQUEST, Key, Keys, Room
from registry.mirror import Mirror, Update
from registry.records import Malformed, decode, encode
from registry.store import Compare, Delete, Put, Store, StoreError, prefix_end

AT_ONCE: Final = 16
"""Requests that are worked on at the same time."""
AGAIN_S: Final = 1.0
"""After what etcd did not take."""
log = structlog.get_logger()


class Judged(NamedTuple):
    """What comes of a request, and what of etcd it depends on."""

    answer: Signed
    compares: tuple[Compare, ...]


class Means(NamedTuple):
    """What an issuer works with."""

    keys: Keys
    host: str
    standing: Standing
    intermediate: Callable[[], Held | None]
    alive: Callable[[], Collection[str]]
    """Hosts whose agents live."""
    clock: Callable[[], float]
    """Seconds of the epoch."""
    chance: Callable[[int], bytes]


class Judge:
    """What an issuer answers, by what it knows. No I/O."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def judge(self, place: Place, asked: Asked) -> Judged | None:
        """The answer to a request; None: nothing can be signed here now."""
        host, name = place
        keys, standing = self._means.keys, self._means.standing
        revisions = standing.revisions
        signed = self.sign(host, name, asked.request.csr)
        if signed is None:
            return None
        answer, pattern = signed
        depends = [keys.identity("hosts", host), keys.identity("revocations")]
        depends += [keys.identity("grants", pattern)] if pattern else []
        compares = [Compare(key, mod_revision=revisions.get(key, 0)) for key in depends] if answer.chain else []
        request = Compare(keys.request(host, name), mod_revision=asked.revision)
        return Judged(msgspec.structs.replace(answer, request=asked.revision), (request, *compares))

    def sign(self, host: str, name: str, csr: str) -> tuple[Signed, str] | None:
        """What a host gets for a key, whoever asks for it, and by which grant; None: nothing can be signed here now."""
        means = self._means
        held, standing, now_s = means.intermediate(), means.standing, means.clock()
        if held is None or standing.bundle is None:
            return None
        at = datetime.fromtimestamp(now_s, UTC)
        try:
            identity = self._identity(standing.bundle.trust_domain, host, name)
        except ValueError as error:
            return Signed(refused=str(error), issuer=means.host, at=at), ""
        said = standing.issuers.get(means.host)
        lifetime_s = said.lifetime_s if said is not None else 0.0
        terms = Terms(serial_of(means.chance(SERIAL_BYTES)), now_s, lifetime_s)
        signer = Issuer(held.kept.chain[0], held.kept.key)
        made = issue(signer, identity, host, csr.encode(), standing.grants, standing.revocations, terms)
        if isinstance(made, Refused):
            return Signed(refused=self._with_line(made.reason, host, identity), issuer=means.host, at=at), ""
        chain = to_pem([made.certificate, *held.kept.chain]).decode()
        return Signed(chain=chain, issuer=means.host, at=at), made.pattern

    def sign_person(self, name: str, csr: str) -> Signed | None:
        """The same for somebody who logs in."""
        means = self._means
        held, standing, now_s = means.intermediate(), means.standing, means.clock()
        if held is None or standing.bundle is None:
            return None
        at = datetime.fromtimestamp(now_s, UTC)
        if name not in standing.people:
            entry = standing.revocations.of("person", name)
            refused = str(entry) if entry is not None else f"{name} may not log in: `shoal person add {name}`"
            return Signed(refused=refused, issuer=means.host, at=at)
        identity = person_id(standing.bundle.trust_domain, name)
        terms = Terms(serial_of(means.chance(SERIAL_BYTES)), now_s, PERSON_S)
        made = issue_to_person(
            Issuer(held.kept.chain[0], held.kept.key), identity, csr.encode(), standing.revocations, terms
        )
        if isinstance(made, Refused):
            return Signed(refused=made.reason, issuer=means.host, at=at)
        return Signed(chain=to_pem([made.certificate, *held.kept.chain]).decode(), issuer=means.host, at=at)

    def _identity(self, domain: str, host: str, name: str) -> SpiffeId:
        """Raises ValueError."""
        if name == AGENT_REQUEST:
            return agent_id(domain, host)
        return service_id(domain, name.removeprefix(SERVICE_REQUEST))

    def _with_line(self, reason: str, host: str, identity: SpiffeId) -> str:
        standing = self._means.standing
        if host in standing.expelled:
            return reason
        if host not in standing.hosts:
            return f"{reason}: {standing.host_line(host)}"
        if identity.service and not standing.grants.pattern_for(host, identity.service):
            return f"{reason}: {standing.grant_line(host, identity.service)}"
        return reason


class Issuing:
    """Of one agent, while an operator lets it issue."""

    def __init__(self, store: Store, means: Means, lease: Callable[[], int], note: Note = unnoted) -> None:
        """`lease`: the agent's; 0 while it has none. `note`: records what was signed and refused."""
        self._note = note
        self._store = store
        self._means = means
        self._lease = lease
        self.judge = Judge(means)
        self.desk = Desk(means.host)
        keys = means.keys
        requests, signed, signing = (keys.room(room) for room in (Room.REQUESTS, Room.SIGNED, Room.SIGNING))
        self._requests = Mirror(store, requests, prefix_end(requests), self._on_requests)
        self._answers = Mirror(store, signed, prefix_end(signing), self._on_answers)
        """Certificates and claims stand beside each other."""
        self._wake = trio.Event()
        self._busy: set[Place] = set()
        self._slots = trio.CapacityLimiter(AT_ONCE)
        self.malformed: dict[str, str] = {}
        """Requests that are none, and why."""
        self.signed = 0
        self.refused = 0

    def refresh(self) -> None:
        """Something that answers depend on has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._requests.run)
            nursery.start_soon(self._answers.run)
            while True:
                self._wake = trio.Event()
                next_s = self._begin(nursery)
                with trio.move_on_after(min(next_s, 60.0)):
                    await self._wake.wait()

    def _begin(self, nursery: trio.Nursery) -> float:
        """Begin what is this issuer's turn; how long until there may be more."""
        if not (self._requests.state.synced and self._answers.state.synced) or self._means.intermediate() is None:
            return float("inf")
        issuers = self._rivals()
        found, next_s = self.desk.due(issuers, trio.current_time())
        for place, asked in found:
            if place not in self._busy:
                self._busy.add(place)
                nursery.start_soon(self._working, place, self._answer, place, asked.revision)
        for place in self.desk.orphans(issuers):
            if place not in self._busy:
                self._busy.add(place)
                nursery.start_soon(self._working, place, self._clear, place)
        lost = ("", "")
        if self._means.standing.lost_revocations(self._means.clock()) is not None and lost not in self._busy:
            self._busy.add(lost)
            nursery.start_soon(self._working, lost, self._put_back)
        return next_s

    def _rivals(self) -> list[str]:
        """Issuers that live, this one among them."""
        said = self._means.standing.issuers
        alive = {*self._means.alive(), self._means.host}
        return [host for host, each in said.items() if host in alive and (each.chain or host == self._means.host)]

    async def _working(self, place: Place, work: Callable[..., Awaitable[bool]], *about: object) -> None:
        """Until it is done, or not this issuer's any more."""
        try:
            async with self._slots:
                done = await work(*about)
        except StoreError as error:
            log.warning("etcd does not take what an issuer has to say", about="/".join(place), error=str(error))
            done = False
        if not done:
            await trio.sleep(AGAIN_S)
        self._busy.discard(place)
        self._wake.set()

    # What was heard.

    def _on_requests(self, update: Update) -> None:
        now_s = trio.current_time()
        for change in update.changes:
            key = self._means.keys.parse(change.key)
            if not isinstance(key, Key) or not _for_issuers(key.second):
                continue
            record = None
            try:
                record = decode(Request, change.value) if change.value is not None else None
                self.malformed.pop(change.key, None)
            except Malformed as error:
                self.malformed[change.key] = str(error)
            self.desk.on_request((key.first, key.second), record, change.revision, now_s)
        self._wake.set()

    def _on_answers(self, update: Update) -> None:
        now_s = trio.current_time()
        for change in update.changes:
            key = self._means.keys.parse(change.key)
            if not isinstance(key, Key) or not _for_issuers(key.second):
                continue
            place = (key.first, key.second)
            if key.room is Room.SIGNED:
                self.desk.on_answer(place, _revision(change.value))
            else:
                self.desk.on_claim(place, _claimant(change.value), now_s)
        self._wake.set()

    # What is done.

    async def _answer(self, place: Place, revision: int) -> bool:
        """Claim a request, judge it, and answer it. Whether it is done, by whomever."""
        asked, lease, keys = self.desk.current(place, revision), self._lease(), self._means.keys
        if asked is None:
            return True
        if not lease:
            return False
        record = Signing(issuer=self._means.host, revision=revision, at=asked.request.at)
        claim = await take(self._store, keys.signing(*place), encode(record), lease)
        if claim is None:
            await self._look_at_claim(keys.signing(*place))
            return False  # another's: his claim will be seen
        judged = self.judge.judge(place, asked)
        if judged is None or not await self._put(place, claim, judged):
            await give_up(self._store, claim)  # and judge it anew, by what is so now
            return False
        self._tell(place, judged.answer)
        return True

    async def _look_at_claim(self, key: str) -> None:
        """What stands there without a lease is no issuer's, and would stand for ever."""
        found = await self._store.get(key)
        if found is not None and not found.lease:
            await self._store.transact([Compare(key, mod_revision=found.mod_revision)], [Delete(key)])

    async def _put(self, place: Place, claim: Claim, judged: Judged) -> bool:
        """In one transaction, with all that it depends on."""
        put = Put(self._means.keys.signed(*place), encode(judged.answer))
        held = Compare(claim.key, create_revision=claim.fence)
        return (await self._store.transact([held, *judged.compares], [put, Delete(claim.key)])).succeeded

    def _tell(self, place: Place, answer: Signed) -> None:
        host, name = place
        self.desk.on_answer(place, answer.request)
        if answer.refused:
            self.refused += 1
            log.warning("a certificate is refused", host=host, name=name, reason=answer.refused)
            self._note("identity.refused", {"for": host, "name": name, "reason": answer.refused}, None)
        else:
            self.signed += 1
            log.info("a certificate is signed", host=host, name=name)
            self._note("identity.signed", {"for": host, "name": name}, None)

    async def _clear(self, place: Place) -> bool:
        """An answer that nobody asks for."""
        keys = self._means.keys
        gone = Compare(keys.request(*place), create_revision=0)
        cleared = (await self._store.transact([gone], [Delete(keys.signed(*place))])).succeeded
        if cleared:
            self.desk.on_answer(place, None)  # before the watch says so
        return cleared

    async def _put_back(self) -> bool:
        """What etcd has lost of the revocations."""
        standing, key = self._means.standing, self._means.keys.identity("revocations")
        lost = standing.lost_revocations(self._means.clock())
        if lost is None:
            return True
        seen = Compare(key, mod_revision=standing.revisions.get(key, 0))
        outcome = await self._store.transact([seen], [Put(key, lost.document())])
        if outcome.succeeded:
            log.warning("revocations that etcd had lost are put back", entries=len(lost))
        return False  # seen soon; until then it still looks lost


def _for_issuers(name: str) -> bool:
    return name == AGENT_REQUEST or name.startswith(SERVICE_REQUEST)


def _revision(value: bytes | None) -> int | None:
    """Of the request that an answer is to; what is no answer answers nothing."""
    if value is None:
        return None
    try:
        return decode(Signed, value).request
    except Malformed:
        return -1


def _claimant(value: bytes | None) -> str:
    """Who has a claim; empty: nobody. What cannot be read is somebody's, until its lease ends."""
    if value is None:
        return ""
    try:
        return decode(Signing, value).issuer or "?"
    except Malformed:
        return "?"
