"""Questions of hosts to an issuer, without etcd between them: for a renewal while etcd is away, and to join.

Laws
- Who asks for a renewal is who the certificate of the connection says: another agent of this trust domain, which gets
  what its host is granted, as far as is known here. Nothing that it says names it.
- A token lets one host in, once: its digest is deleted and the certificate put in one transaction, which fails when
  somebody else has redeemed it, or when the host belongs to the mesh no more. A refusal is told, with the address.
- Tokens are compared by their digests, and are in no log.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
import trio

from agent import questions
from agent.control.identity.around import Around, Reply
from agent.control.identity.issuer import Judge
from agent.control.identity.late_answers import LateAnswers
from agent.control.identity.standing import Standing
from agent.frames import Peer
from agent.identity.bundles import bundle_document
from agent.identity.spiffe import SpiffeId, parse_id
from agent.identity.tokens import Joined, Joining, digest_of
from agent.questions import JOIN, SIGN, Sign, SignAnswer
from registry.identity_records import Join, Signed
from registry.keys import AGENT_REQUEST
from registry.records import Malformed, decode, encode
from registry.store import Compare, Delete, Put, StoreError

MAX_JOINING: Final = 64
"""Hosts that wait for an answer; beyond it they are told to ask again."""
log = structlog.get_logger()


class Answering:
    """Of one agent that may be an issuer."""

    def __init__(self, around: Around, standing: Standing, judge: Judge, late: LateAnswers) -> None:
        self._around = around
        self._late = late
        self._standing = standing
        self._judge = judge
        self._send, self._receive = trio.open_memory_channel[tuple[Peer, Reply]](MAX_JOINING)

    def asked(self, told: Peer, reply: Reply) -> None:
        """A question of another host's."""
        if told.path == SIGN:
            reply(*self._sign(told))
        elif told.path == JOIN:
            try:
                self._send.send_nowait((told, reply))
            except trio.WouldBlock:
                reply(503, b"too many hosts join at once; ask again")

    async def run(self) -> None:
        """Let hosts in, until cancelled."""
        async for told, reply in self._receive:
            try:
                status, body = await self._join(told)
            except StoreError as error:
                log.warning("nobody can join while etcd is away", error=str(error))
                status, body = 503, b"etcd is away, and who joins is noted there; ask again"
            except Exception:  # whatever a stranger sends, it ends nobody but him
                log.exception("a host that joins was not answered", address=told.address)
                status, body = 500, b"this agent failed at that question"
            reply(status, body)

    # Renewal.

    def _sign(self, told: Peer) -> tuple[int, bytes]:
        bundle = self._standing.bundle
        try:
            who = parse_id(told.identity)
        except ValueError:
            return 403, b"who asks for a certificate shows the one that it has"
        if bundle is None or who.trust_domain != bundle.trust_domain or not (who.host or who.person):
            return 403, f"{who} is no agent of this mesh".encode()
        question = questions.read(told.body, Sign)
        if isinstance(question, str):
            return 400, question.encode("utf-8", "replace")
        answer = self._signed(who, question)
        if answer is None:
            return 503, b"this host cannot issue now"
        words = "refused" if answer.refused else "signed"
        log.info(f"a certificate is {words} for a peer", who=who.path, name=question.name, reason=answer.refused)
        event = "identity.refused" if answer.refused else "identity.signed"
        said = {"for": who.host, "name": question.name, "reason": answer.refused, "asked": "directly"}
        self._around.note(event, said, {"person": who.person, "client": told.address} if who.person else None)
        believed = bundle_document(bundle).decode() if who.person else ""
        return 200, msgspec.msgpack.encode(SignAnswer(answer.chain, answer.refused, believed))

    def _signed(self, who: SpiffeId, question: Sign) -> Signed | None:
        """A person gets his own only, whatever he calls it."""
        if who.person:
            return self._judge.sign_person(who.person, question.csr)
        signed = self._judge.sign(who.host, question.name, question.csr)
        if signed is not None and signed[0].chain:
            self._late.note(who.host, question.name, question.csr, signed[0])
        return signed[0] if signed is not None else None

    # Joining.

    async def _join(self, told: Peer) -> tuple[int, bytes]:
        """Raises StoreError."""
        question = questions.read(told.body, Joining)
        if isinstance(question, str):
            return 400, b"no token and signing request"
        keys, store = self._around.keys, self._around.store
        key = keys.identity("joins", digest_of(question.token))
        found = await store.get(key)
        if found is None:
            return self._refused(told, "this token is not known: it was redeemed already, taken back, or never made")
        try:
            join = decode(Join, found.value)
        except Malformed as error:
            return self._refused(told, f"what stands under this token's digest is no record: {error}")
        now_s = self._around.clock()
        if now_s >= join.until.timestamp():
            whose = join.host or join.person
            return self._refused(told, f"the token for {whose} has ended at {join.until.isoformat()}")
        answer = self._answer(join, question.csr)
        bundle = self._standing.bundle
        if answer is None or bundle is None:
            return 503, b"this host cannot issue now; ask another issuer"
        if answer.refused:
            return self._refused(told, answer.refused)
        member = keys.identity("people", join.person) if join.person else keys.identity("hosts", join.host)
        unchanged = [Compare(key, mod_revision=found.mod_revision)]
        unchanged.append(Compare(member, mod_revision=self._standing.revisions.get(member, 0)))
        put = [] if join.person else [Put(keys.signed(join.host, AGENT_REQUEST), encode(answer))]
        if not (await store.transact(unchanged, [Delete(key), *put])).succeeded:
            return self._refused(told, f"the token for {join.host or join.person} was redeemed by another just now")
        log.info("a token is redeemed", host=join.host, person=join.person, address=told.address)
        known = {"client": told.address, **({"person": join.person} if join.person else {})}
        self._around.note("join.redeemed", {"for": join.host}, known)
        return 200, msgspec.msgpack.encode(Joined(answer.chain, bundle_document(bundle).decode()))

    def _answer(self, join: Join, csr: str) -> Signed | None:
        if join.person:
            return self._judge.sign_person(join.person, csr)
        signed = self._judge.sign(join.host, AGENT_REQUEST, csr)
        return signed[0] if signed is not None else None

    def _refused(self, told: Peer, reason: str) -> tuple[int, bytes]:
        log.warning("a host may not join", address=told.address, reason=reason)
        self._around.note("join.refused", {"reason": reason}, {"client": told.address})
        data: dict[str, Any] = {"reason": f"{reason} (from {told.address})"}
        self._around.tell("join.refused", {"host": self._around.host}, data)
        return 403, reason.encode()
