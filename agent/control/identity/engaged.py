"""Identity at work, once a trust bundle stands: what is believed, what is held, what is asked, told, and issued.

Law: everything is looked at again by the clock (`TICK_S`), whatever woke whom: no certificate ends unseen, and a clock
that jumps is seen with the next look.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
import structlog
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from agent import questions
from agent.control.identity.answering import Answering
from agent.control.identity.around import Around
from agent.control.identity.asking import Asking, Publishing
from agent.control.identity.files import Files
from agent.control.identity.issuer import Issuing, Means
from agent.control.identity.standing import Standing
from agent.control.identity.svids import Svids
from agent.control.identity.way import NoAnswer, Way, client_context
from agent.frames import Trust
from agent.identity.spiffe import agent_id
from agent.identity.verdict import Refused
from agent.identity.verification import verify
from agent.questions import SIGN, Sign, SignAnswer
from registry.keys import AGENT_REQUEST, ISSUER_REQUEST, SERVICE_REQUEST
from registry.records import encode
from registry.store import Change

TICK_S: Final = 5.0
SAVE_AFTER_S: Final = 0.5
PEER_S: Final = 3.0
SHORT_S: Final = 0.1
"""At least so long between two looks, however much happens."""
OF_AGENT: Final = "agent.shoal"
"""What the agent itself is called in events; no service can be called so."""
log = structlog.get_logger()


class Engaged:
    """One agent's."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self.standing = Standing(around.keys)
        self.svids = Svids(around.host, self.standing)
        self.files = Files(around.folder, around.keys.mesh)
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
        self.publishing = Publishing(around.store, around.keys.trust(around.host), around.lease, around.proves)
        means = Means(
            around.keys,
            around.host,
            self.standing,
            lambda: self.svids.held().get(ISSUER_REQUEST),
            around.alive,
            around.clock,
            around.serials,
        )
        self.issuing = Issuing(around.store, means, around.lease)
        self.answering = Answering(around, self.standing, self.issuing.judge)
        self.trust = Trust()
        self.problems: dict[str, str] = {}
        """What cannot be proven here, and why, as it was told; by name of the request."""
        self._wake = trio.Event()
        self._unsaved = trio.Event()
        self._issues = False
        self._context: tuple[object, ssl.SSLContext] | None = None
        """What this agent shows when it asks others, and as of what."""
        self._ways: dict[str, Way] = {}
        self._services: frozenset[str] = frozenset()
        self._roots: tuple[object, dict[str, list[bytes]], bytes] = (None, {}, b"")
        """By what certificates are judged, and how workers are told of it."""

    def wake(self) -> None:
        """Look at everything soon."""
        self._wake.set()

    # What is known.

    def load(self) -> None:
        """What was believed and held before a restart."""
        now_s = self._around.clock()
        self.standing.load(self.files.load(), now_s)
        useless = self.svids.load(self.files.read(), now_s, self._around.chance.random())
        self.asking.let_go([("", useless)])
        self._look()

    def hear(self, changes: Sequence[Change], *, whole: bool, another: bool) -> None:
        """What happened in etcd."""
        for change in changes:
            self.publishing.hear(change.key, change.value)
        if self.standing.take(changes, self._around.clock(), whole=whole, another=another):
            self._unsaved.set()
            self.issuing.refresh()
            self.wake()
        elif self._services != frozenset(self._around.services()):
            self.wake()

    # What goes on.

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save)
            nursery.start_soon(self.asking.run)
            nursery.start_soon(self.publishing.run)
            nursery.start_soon(self.answering.run)
            while True:
                self._wake = trio.Event()
                self._look()
                if self._may_issue() and not self._issues:
                    self._issues = True
                    nursery.start_soon(self._issue)
                await trio.sleep(SHORT_S)
                with trio.move_on_after(min(TICK_S, self._first_end_s())):
                    await self._wake.wait()

    def _first_end_s(self) -> float:
        """How long until something ends."""
        ends = (held.ends_s for held in self.svids.held().values())
        return max(0.0, min(ends, default=math.inf) - self._around.clock())

    def _look(self) -> None:
        """At the clock, at what is registered, and at what is believed."""
        around = self._around
        now_s = around.clock()
        self._services = frozenset(around.services())
        self.svids.want(self._services)
        self.asking.let_go(self.svids.review(now_s, around.chance.random()))
        said = self.standing.issuers.get(around.host)
        if said is not None and said.chain:
            self._offer_intermediate(said.chain)
        trust = self._trust()
        if trust != self.trust:
            self.trust = trust
            around.prove(trust)
        self.publishing.want(encode(self.svids.holds()) if self.standing.bundle is not None else None)
        if self.svids.due(now_s):
            self.asking.wake()
        self._tell(self.svids.problems(now_s))

    def _offer_intermediate(self, chain: str) -> None:
        """What an operator signed for this host."""
        if self.svids.is_news(ISSUER_REQUEST, chain):
            self.asking.offer(ISSUER_REQUEST, chain)

    def _trust(self) -> Trust:
        standing = self.standing
        if standing.bundle is None:
            return Trust()
        if self._roots[0] is not standing.trusted:
            bundles = {
                domain: [root.public_bytes(Encoding.DER) for root in each.roots]
                for domain, each in sorted(standing.bundles.items())
            }
            revoked = standing.revocations.document() if len(standing.revocations) else b""
            self._roots = (standing.trusted, bundles, revoked)
        shown = self.svids.shown()
        return Trust(standing.bundle.trust_domain, shown, *self._roots[1:], self._around.strict() and "" in shown)

    def _may_issue(self) -> bool:
        return self._around.host in self.standing.issuers and ISSUER_REQUEST in self.svids.held()

    async def _issue(self) -> None:
        """As long as an operator lets this host."""
        log.info("this host issues certificates")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.issuing.run)
            while self._may_issue():  # noqa: ASYNC110 - it ends by an operator's word, or by the clock
                await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        log.info("this host issues certificates no more")
        self._issues = False

    async def _save(self) -> None:
        while True:
            await self._unsaved.wait()
            await trio.sleep(SAVE_AFTER_S)
            self._unsaved = trio.Event()
            await self._around.disk(self.files.save, self.standing.saved())

    # Peers.

    def way(self, host: str) -> Way | None:
        """How to ask another host's agent; None: this one can prove nothing."""
        held, bundle = self.svids.held().get(AGENT_REQUEST), self.standing.bundle
        if held is None or bundle is None:
            return None
        marks = (held.kept.path, self.standing.trusted)
        if self._context is None or self._context[0] != marks:
            roots = [root.public_bytes(Encoding.DER) for root in bundle.roots]
            try:
                self._context = (marks, client_context(held.kept.path, roots))
            except OSError as error:
                log.warning("the agent's own certificate cannot be read", error=str(error))
                return None
            self._ways.clear()
        if host not in self._ways:
            self._ways[host] = Way(self._context[1], OF_AGENT, partial(self._judge_agent, host))
        return self._ways[host]

    def _judge_agent(self, host: str, chain: list[bytes]) -> str:
        bundle = self.standing.bundle
        try:
            expected = agent_id(bundle.trust_domain if bundle is not None else "", host)
        except ValueError as error:
            return str(error)
        found = verify(chain, self.standing.bundles, self.standing.revocations, self._around.clock(), expected)
        return found.reason if isinstance(found, Refused) else ""

    async def _ask_peers(self, name: str, csr: str) -> None:
        """An issuer, past etcd: this host itself, where it is one."""
        around = self._around
        said = [host for host, each in self.standing.issuers.items() if each.chain and host in around.alive()]
        around.chance.shuffle(said)
        for host in [*([around.host] if self._may_issue() else []), *(each for each in said if each != around.host)]:
            if host == around.host:
                signed = self.issuing.judge.sign(host, name, csr)
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

    def _tell(self, problems: dict[str, str]) -> None:
        """What is new of it, and what is over."""
        for name, reason in problems.items():
            if name not in self.problems:
                log.warning("this host cannot prove what it is", name=name, reason=reason)
                self._event("identity.missing", name, reason)
            elif _kind(reason) != _kind(self.problems[name]):
                log.warning("this host cannot prove what it is", name=name, reason=reason)
        held = self.svids.held()
        for name in self.problems.keys() - problems.keys():
            if name not in held and self.svids.wants(name):
                problems[name] = self.problems[name]  # asked for by now; it is no better yet
                continue
            reason = "it holds a certificate" if name in held else "it is not wanted here any more"
            log.info("this host can prove what it is", name=name, reason=reason)
            self._event("identity.held", name, reason)
        self.problems = problems

    def _event(self, kind: str, name: str, reason: str) -> None:
        service = name.removeprefix(SERVICE_REQUEST) if name.startswith(SERVICE_REQUEST) else OF_AGENT
        self._around.tell(kind, {"host": self._around.host, "service": service}, {"reason": reason})

    @property
    def malformed(self) -> dict[str, str]:
        """Keys that are not believed, and why."""
        return {**self.standing.malformed, **self.asking.malformed, **self.issuing.malformed}

    def as_state(self) -> dict[str, Any]:
        """What /state shows."""
        standing, now_s = self.standing, self._around.clock()
        bundle = standing.bundle
        if bundle is None:
            return {}
        return {
            "trust_domain": bundle.trust_domain,
            "bundle": bundle.sequence,
            "roots": len(bundle.roots),
            "federated": {domain: each.sequence for domain, each in sorted(standing.federated.items())},
            "revoked": len(standing.revocations),
            "issuers": sorted(standing.issuers),
            "issuing": self._issues,
            "waiting": self.issuing.desk.waiting() if self._issues else 0,
            "held": [
                {
                    "name": name,
                    "path": str(held.kept.path),
                    "ends": _text(held.ends_s),
                    "ends_s": round(held.ends_s - now_s),
                    "renewed_from": _text(held.renew_s),
                    "root": held.root,
                }
                for name, held in self.svids.held().items()
            ],
            "problems": [{"name": name, "reason": reason} for name, reason in sorted(self.problems.items())],
            "clocks": {issuer: round(ahead_s, 1) for issuer, ahead_s in sorted(self.asking.clocks.items())},
            "error": self.asking.error,
        }

    def gauges(self) -> dict[str, float]:
        """For metrics; nothing while no bundle stands."""
        if self.standing.bundle is None:
            return {}
        now_s, held = self._around.clock(), self.svids.held()
        ends = [each.ends_s - now_s for each in held.values()]
        return {
            "shoal_identity_held": len(held),
            "shoal_identity_missing": len(self.problems),
            "shoal_identity_first_end_seconds": min(ends, default=0.0),
            "shoal_identity_bundle_sequence": self.standing.bundle.sequence,
            "shoal_identity_revoked": len(self.standing.revocations),
            "shoal_identity_requests_waiting": self.issuing.desk.waiting() if self._issues else 0,
        }


def _kind(reason: str) -> str:
    """What of a reason does not change by the minute."""
    return reason.partition(":")[0].partition(" in ")[0]


def _text(unix_s: float) -> str:
    return datetime.fromtimestamp(int(unix_s), UTC).isoformat().replace("+00:00", "Z")
