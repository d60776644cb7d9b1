"""Identity at work, once a trust bundle stands: what is asked for, and issued."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
import trio

from agent import questions
from agent.control.identity.answering import Answering
from agent.control.identity.around import Around, Reply
from agent.control.identity.asking import Asking
from agent.control.identity.issuer import Issuing, Means
from agent.control.identity.late_answers import LateAnswers
from agent.control.identity.proving import Proving
from agent.control.identity.standing import Standing
from agent.control.identity.svids import Svids
from agent.control.identity.way import NoAnswer
from agent.frames import Peer
from agent.questions import SIGN, Sign, SignAnswer
from registry.keys import ISSUER_REQUEST

PEER_S: Final = 3.0
log = structlog.get_logger()


class Engaged(Proving):
    """One agent's, whose certificates issuers of the mesh sign."""

    def __init__(self, around: Around) -> None:
        standing = Standing(around.keys)
        self.svids = Svids(around.host, standing)
        super().__init__(around, standing, self.svids)
        self.asking = Asking(
            around.store,
            around.keys,
            around.host,
            self.svids,
            self.files,
            clock=around.clock,
            chance=around.chance,
            disk=around.disk,
            ask_peers=self._ask_peers,
            changed=self.wake,
        )
        means = Means(
            around.keys,
            around.host,
            self.standing,
            lambda: self.svids.held().get(ISSUER_REQUEST),
            around.alive,
            around.clock,
            around.serials,
        )
        self.issuing = Issuing(around.store, means, around.lease, around.note)
        self.late_answers = LateAnswers(around.store, around.keys, self._may_issue, around.chance)
        self.answering = Answering(around, self.standing, self.issuing.judge, self.late_answers)
        self._issues = False
        self._lets = trio.Event()
        """An operator lets this host issue, and it can."""

    # What is known.

    def load(self) -> None:
        """What was believed and held before a restart."""
        now_s = self._around.clock()
        self.standing.load(self.files.load(), now_s)
        useless = self.svids.load(self.files.read(), now_s, self._around.chance.random())
        self.asking.let_go([("", useless)])
        self._look()

    def _heard(self) -> None:
        self.issuing.refresh()

    def asked(self, told: Peer, reply: Reply) -> None:
        """A question of another host's: SIGN or JOIN."""
        self.answering.asked(told, reply)

    # What goes on.

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save)
            nursery.start_soon(self.asking.run)
            nursery.start_soon(self.publishing.run)
            nursery.start_soon(self.answering.run)
            nursery.start_soon(self.late_answers.run)
            nursery.start_soon(self._issue)
            nursery.start_soon(self._looking)

    def _look(self) -> None:
        around = self._around
        now_s = around.clock()
        self._services = frozenset(around.services())
        self.svids.want(self._services)
        self.asking.let_go(self.svids.review(now_s, around.chance.random()))
        said = self.standing.issuers.get(around.host)
        if said is not None and said.chain:
            self._offer_intermediate(said.chain)
        self._show()
        if self.svids.due(now_s):
            self.asking.wake()
        self._tell(self.svids.problems(now_s))
        if self._may_issue():
            self._lets.set()

    def _offer_intermediate(self, chain: str) -> None:
        """What an operator signed for this host."""
        if self.svids.is_news(ISSUER_REQUEST, chain):
            self.asking.offer(ISSUER_REQUEST, chain)

    def _may_issue(self) -> bool:
        return self._around.host in self.standing.issuers and ISSUER_REQUEST in self.svids.held()

    async def _issue(self) -> None:
        """As long as an operator lets this host; until cancelled."""
        while True:
            await self._lets.wait()
            log.info("this host issues certificates")
            self._issues = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.issuing.run)
                while self._may_issue():  # noqa: ASYNC110 - it ends by an operator's word, or by the clock
                    await trio.sleep(1.0)
                nursery.cancel_scope.cancel()
            log.info("this host issues certificates no more")
            self._issues, self._lets = False, trio.Event()

    # Peers.

    async def _ask_peers(self, name: str, csr: str) -> None:
        """An issuer, past etcd: this host itself, where it is one."""
        around = self._around
        said = [host for host, each in self.standing.issuers.items() if each.chain and host in around.alive()]
        around.chance.shuffle(said)
        for host in [*([around.host] if self._may_issue() else []), *(each for each in said if each != around.host)]:
            if host == around.host:
                signed = self.issuing.judge.sign(host, name, csr)
                if signed is not None and signed[0].chain:
                    self.late_answers.note(host, name, csr, signed[0])
                answer = SignAnswer(signed[0].chain, signed[0].refused) if signed is not None else "it cannot issue"
            else:
                answer = await self._ask_peer(host, Sign(name, csr))
            if isinstance(answer, SignAnswer) and answer.chain:
                self.asking.offer(name, answer.chain)
                return
            reason = answer.refused if isinstance(answer, SignAnswer) else answer
            self.svids.refused(name, f"asked {host} itself, for etcd does not help: {reason}"[:1000])

    async def _ask_peer(self, host: str, question: Sign) -> SignAnswer | str:
        try:
            status, body = await self._around.ask(host, SIGN, msgspec.msgpack.encode(question), PEER_S)
        except NoAnswer as error:
            return str(error)
        return questions.read(body, SignAnswer) if status == 200 else questions.refused(status, body)

    # What is told.

    @property
    def malformed(self) -> dict[str, str]:
        """Keys that are not believed, and why."""
        return {**self.standing.malformed, **self.asking.malformed, **self.issuing.malformed}

    def as_state(self) -> dict[str, Any]:
        """What /state shows."""
        found = super().as_state()
        if found:
            found |= {
                "issuers": sorted(self.standing.issuers),
                "issuing": self._issues,
                "waiting": self._waiting,
                "signed_without_etcd": len(self.late_answers),
                "clocks": {issuer: round(ahead_s, 1) for issuer, ahead_s in sorted(self.asking.clocks.items())},
                "error": self.asking.error,
            }
        return found

    def gauges(self) -> dict[str, float]:
        """For metrics; nothing while no bundle stands."""
        found = super().gauges()
        return {**found, "shoal_identity_requests_waiting": self._waiting} if found else {}

    @property
    def _waiting(self) -> int:
        """Requests that are on this issuer's desk."""
        return self.issuing.desk.waiting() if self._issues else 0

    def counters(self) -> dict[tuple[str, ...], float]:
        """For metrics."""
        return {("shoal_identity_signed",): self.issuing.signed, ("shoal_identity_refused",): self.issuing.refused}
