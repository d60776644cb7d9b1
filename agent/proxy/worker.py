# mypyc: compiled
"""A proxy worker: one reactor, its connections and requests, and what control wants of it. Its process is `process`."""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from typing import Any

import msgspec
import trio

from agent import build, frames
from agent.frames import ToControl, ToWorker, Uncompiled, Unknown
from agent.identity.users import Users
from agent.process.descriptors import affordable, limit
from agent.proxy.budget import Budget, Guest
from agent.proxy.control import peers
from agent.proxy.control.explaining import LaterAnswer, PeerExplained
from agent.proxy.control.peers import Question
from agent.proxy.doors.gateway import Gateway
from agent.proxy.engine.connection import Connection, Wire
from agent.proxy.engine.reactor import READ
from agent.proxy.engine.tls import TlsSocket
from agent.proxy.given_up import GivenUp
from agent.proxy.listener import CallerListener, Listener, speak, turn_away
from agent.proxy.messages.answers import FULL, OUT_OF_DESCRIPTORS, Refusal
from agent.proxy.messages.head import RequestHead
from agent.proxy.peer import Peer
from agent.proxy.proof.doorkeeper import Doorkeeper
from agent.proxy.proof.local_user import users
from agent.proxy.report import state
from agent.proxy.report.load import load
from agent.proxy.request.explaining.rounds import explain_soon
from agent.proxy.request.inbound import Inbound
from agent.proxy.request.outbound import Outbound
from agent.proxy.runtime import Runtime
from agent.proxy.stream import RequestHandler, Stream
from agent.proxy.table.outliers import begin_judging
from agent.proxy.table.pressure import CpuWatch, cpu_limiters
from agent.proxy.table.service import Service
from agent.questions import EXPLAIN, Explain, read
from policies.kinds.authz.outside import origin
from policies.kinds.tls.document import Origin
from policies.together import Together

log = logging.getLogger("shoal.worker")


class Worker(Runtime):
    """Who serves: takes connections, hands requests to exchanges, and does what control wants."""

    def __init__(
        self, seed: int | None = None, given_up: GivenUp | None = None, together: Together | None = None
    ) -> None:
        super().__init__(seed, given_up, together)
        self.cpu = CpuWatch(self.reactor, self.table)
        self._affordable = affordable(limit())
        self.pool.most = 2 * self._affordable
        self._believed: tuple[dict[str, str], str] | None = None
        """Where agents are registered, and which host this is, from the next commit on."""
        self.listeners: list[Listener] = []
        self.drained = trio.Event()
        self.security.on_settled = self._look_drained
        self.peers.here[EXPLAIN.encode()] = self._explain_to_peer
        self._waiting: list[RequestHandler] = []
        self._with_table: list[tuple[int, bool]] = []
        """Listening sockets that wait for the first table, and whether each is inbound."""
        self._of_callers: list[tuple[int, str]] = []
        """Those of callers, which wait until it is known who may be which service, too; with whose they are."""
        self._users: Users | None = None
        self._refused: list[Uncompiled] = []
        """What of the staged changes could not be compiled; told with the commit."""

    # Connections.

    def listen_with_table(self, outbound: list[int], inbound: list[int], callers: list[tuple[int, str]]) -> None:
        """Serve these listening sockets once there is a table; until then others serve them. `callers`: with whose they
        are; empty: everybody's."""
        self._with_table = [(fd, False) for fd in outbound] + [(fd, True) for fd in inbound]
        self._of_callers = callers

    def listen(self, fd: int, *, inbound: bool) -> None:
        """Serve a listening socket."""
        self._serve(Listener(self, fd, self.inbound if inbound else self.outbound))

    def _serve(self, listener: Listener) -> None:
        self.listeners.append(listener)
        if listener.port:
            self.foreign.own_ports.add(listener.port)

    def on_accepted(self, sock: Wire, peer: Peer, budget: Budget) -> None:
        """A client connected, to the listener that the budget is of."""
        self.accepted += 1
        sock.setblocking(False)
        outsider = peer.outsider
        most = min(self.limits.max_connections, self._affordable)
        if self.reserve.lent and not self._has_descriptors():
            self._turn_away(sock, OUT_OF_DESCRIPTORS, peer, budget)
            return
        if not budget.has_room(most, peer.address, outsider=outsider):
            self._turn_away(sock, FULL, peer, budget)
            return
        connection = speak(self, sock, peer, budget, outsider=outsider)
        self.connections.add(connection)
        if isinstance(sock, TlsSocket):
            assert peer.identity is not None
            self.custody.clients[connection] = peer.identity
            if sock.pending():
                connection.on_event(READ)

    def _has_descriptors(self) -> bool:
        """Whether there is one besides that which a client has just taken: idle connections to endpoints go first."""
        if not self.reserve.lent or self.pool.free_one():
            self.reserve.take_back()
        return not self.reserve.lent

    def _turn_away(self, sock: Wire, refusal: Refusal, peer: Peer, budget: Budget) -> None:
        self.on_refused(refusal, peer.address, budget.inbound, b"")
        turn_away(sock, refusal)
        self.reserve.take_back()

    def forget(self, connection: Connection) -> None:
        """A client's connection closed."""
        self.connections.discard(connection)
        if isinstance(connection, Guest):
            self.custody.clients.pop(connection, None)
        self._look_drained()

    def _look_drained(self) -> None:
        if self.draining and not self.connections and not len(self.security.half_open):
            self.drained.set()

    # Requests.

    def handler(self, stream: Stream, request: RequestHead) -> RequestHandler:
        """Who takes a request: out, in, or another agent's question."""
        if not stream.inbound:
            return Outbound(self, stream, request)
        if stream.peer.foreign:
            return Gateway(self, stream, request)
        if request.host == peers.HOST:
            return Question(self.peers, stream, request, self.next_request_id())
        return Inbound(self, stream, request)

    def begin(self, stream: Stream, handler: RequestHandler) -> None:
        """At once; or, before the first table, once that is there. Bounded in number, for each
        listener, and in time."""
        if self.table.ready:
            handler.start()
        elif stream.budget.waiting >= self.limits.max_waiting:
            handler.on_client_timeout()
        else:
            stream.budget.waiting += 1
            self._waiting.append(handler)
            stream.arm(self.reactor.now + self.limits.waiting_s)

    def _serve_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.outbound.waiting = self.inbound.waiting = 0
        for handler in waiting:
            if not handler.over:
                handler.start()

    # Frames.

    def take(self, wanted: ToWorker | Unknown) -> list[ToControl]:
        """Do what control wants; returns what to answer. A frame that fails costs nothing but itself."""
        if isinstance(wanted, Unknown):
            log.error("control sent a frame %r that this worker cannot take: %s", wanted.kind, wanted.reason)
            if wanted.asks is not None:
                return [frames.Answer(wanted.asks, None, wanted.reason)]
            return self._failed(wanted.kind, wanted.reason)
        try:
            return self._obey(wanted)
        except Exception as error:
            kind, reason = str(wanted.__struct_config__.tag), f"{type(error).__name__}: {error}"
            log.exception("a frame of control's failed: %r", kind)
            if isinstance(wanted, frames.Ask):
                return [frames.Answer(wanted.id, None, reason)]
            self._failed(kind, reason)
            # Control tells nothing more of the table before it hears what runs.
            return [self._runs()] if isinstance(wanted, frames.Commit) else []

    def _failed(self, kind: str, reason: str) -> list[ToControl]:
        self._refused.append(Uncompiled(kind, "$", f"a frame {kind!r} failed: {reason}"))
        return []

    def _obey(self, wanted: ToWorker) -> list[ToControl]:
        if isinstance(wanted, frames.Stage | frames.Change):
            self._stage(wanted)
        elif isinstance(wanted, frames.Gone):
            self.table.gone(wanted.name)
        elif isinstance(wanted, frames.Where):
            self._believed = (wanted.addresses, wanted.host)
        elif isinstance(wanted, frames.Commit):
            return self._commit(wanted.revision, max(1, wanted.agents))
        elif isinstance(wanted, frames.Configure):
            self._configure(wanted)
        elif isinstance(wanted, frames.Trust):
            self._trust(wanted)
        elif isinstance(wanted, frames.IssuerKeys):
            self._take_keys(wanted)
        elif isinstance(wanted, frames.Ask):
            return self._answer(wanted)
        elif isinstance(wanted, frames.PeerAnswer):
            self.peers.answer(wanted.id, wanted.status, wanted.body)
        elif isinstance(wanted, frames.Stored):
            self.stores.answer(wanted.id, wanted.name, wanted.reason)
        elif isinstance(wanted, frames.Recorded):
            self.recordings.answer(wanted.id, wanted.reason)
        elif isinstance(wanted, frames.Away):
            self.recordings.be_patient(patient=True)
            self.recorder.tap({})  # who taps begins anew at its successor
        elif isinstance(wanted, frames.Shares):
            self._share(wanted)
        elif isinstance(wanted, frames.Follow):
            self.recorder.follow(wanted.filters)
        elif isinstance(wanted, frames.Tap):
            self.recorder.tap(wanted.wanted)
        elif isinstance(wanted, frames.Drain):
            self.recordings.be_patient(patient=False)
            self.drain()
        return []

    def _stage(self, wanted: frames.Stage | frames.Change) -> None:
        name, revision, now = wanted.name, wanted.revision, time.monotonic()
        try:
            if isinstance(wanted, frames.Stage):
                self._refused += self.table.stage(name, revision, wanted.endpoints, wanted.policies, now, wanted.audits)
            else:
                self._refused += self.table.change(
                    name,
                    revision,
                    wanted.endpoints,
                    wanted.gone,
                    wanted.policies,
                    now,
                    audits=wanted.audits,
                    more=wanted.more,
                )
        except Exception as error:  # one service's plan must cost nothing but that plan
            log.exception("%s cannot be compiled; the plan of before stays in force", name)
            reason = f"the plan of {name} cannot be compiled: {type(error).__name__}: {error}"
            self._refused.append(Uncompiled(name, "$", reason))

    def _configure(self, told: frames.Configure) -> None:
        self.table.host = told.host
        self.table.zone = told.zone
        self.table.share = told.share
        self.callers.configure(told.callers)
        self.limits = limits = told.limits
        self.heads.configure(limits.head_bytes, limits.head_fields, limits.underscores)
        self.agents.believe(told.agents)
        self.opas.allowed = frozenset([origin(url) for url in told.opas])
        self.vouching.believe(told.proxies)
        self.recorder.keep(told.access_log)
        self.spans.wanted = told.spans
        if self._users is None:
            self._users = users(told.local)
            self.pool.doorkeeper = Doorkeeper(self._users) if self._users.services else None
            self._listen_to_callers()
        if self.origins.take(told.client_certificates):
            self.pool.renew_origins(self.origins)

    def _trust(self, told: frames.Trust) -> None:
        withdrawn = self.security.take(told)
        self.peers.proven_only = told.proven_only
        self.pool.renew(self.security)
        self.custody.look(withdrawn=withdrawn)

    def _take_keys(self, told: frames.IssuerKeys) -> None:
        """What keys have verified that are gone is forgotten, and what is under way by it is judged anew."""
        if self.table.keyring.put(told.source, told.jwks, math.inf if told.said_s is None else told.said_s):
            touched = [service for service in self.table.services.values() if service.plan.trusts(told.source)]
            for service in touched:
                service.rules_changed = True
            self._judge_anew(touched)

    def _share(self, told: frames.Shares) -> None:
        """Parts of limits: by service, by limit."""
        for name, shares in told.shares.items():
            service = self.table.services.get(name)
            if service is not None:
                service.share_out(shares, told.parts.get(name, {}), told.keys.get(name, {}))
                if name in told.tokens:
                    service.give(told.tokens[name], self.reactor.now)

    def _commit(self, revision: int, agents: int) -> list[ToControl]:
        first = not self.table.ready
        adopted = self.table.commit(revision, agents)
        if self._believed is not None:
            self.agents.learn(*self._believed)
            self._believed = None
        unjudged, self.table.unjudged = self.table.unjudged, []
        if any(cpu_limiters(service) for service in adopted):
            self.cpu.start()
        for service in adopted:
            for judge in service.plan.judges:
                self.judges.prepare(judge)
            if service.lets_go:
                service.lets_go = False
                self.pool.let_go(service.tally)
        for name in list(self.pool.origins):
            self.pool.follow_origin(name, self._origin(name))
        if any(service.rules_changed for service in adopted):
            self._judge_anew(adopted)
        for service in unjudged:
            begin_judging(self.reactor, self.rng, self.table, service)
        self.reactor.now = time.monotonic()
        self._serve_waiting()
        answers: list[ToControl] = [self._runs()]
        if first:
            gc.collect()
            gc.freeze()
            self.listen_now()
            answers.append(frames.Ready(os.getpid(), build.kind(), changes=True))
        return answers

    def _origin(self, name: str) -> Origin | None:
        """What instances of a service speak themselves, as far as a document says so."""
        service = self.table.services.get(name)
        tls = service.plan.tls if service is not None else None
        return tls.origin if tls is not None else None

    def _judge_anew(self, adopted: list[Service]) -> None:
        """What is under way to services whose rules have changed."""
        for connection in list(self.connections):
            if isinstance(connection, Guest) and not connection.closed:
                connection.judge_anew()
        for service in adopted:
            service.rules_changed = False

    def listen_now(self) -> None:
        """Serve what waits for a table, whether there is one or not: requests wait for it then."""
        waited, self._with_table = self._with_table, []
        if not self.draining:
            for fd, inbound in waited:
                self.listen(fd, inbound=inbound)
            self._listen_to_callers()

    def _listen_to_callers(self) -> None:
        if self._users is not None and not self._with_table:
            waited, self._of_callers = self._of_callers, []
            for fd, service in waited:
                self._serve(CallerListener(self, fd, self.outbound, self._users, service))

    def _runs(self) -> frames.Runs:
        refused, self._refused = self._refused, []
        return frames.Runs(self.table.revision, refused)

    def _answer(self, asked: frames.Ask) -> list[ToControl]:
        """An explanation may come later: somebody is asked for it."""
        try:
            if asked.what == "explain":
                later = LaterAnswer(asked.id, self._send_later)
                explain_soon(self, msgspec.convert(asked.args, Explain), later.take)
                return later.now()
            return [frames.Answer(asked.id, self._told(asked.what, asked.args))]
        except (ValueError, TypeError, KeyError) as error:
            return [frames.Answer(asked.id, None, f"{type(error).__name__}: {error}")]

    def _told(self, what: str, args: dict[str, Any]) -> Any:
        if what == "ping":
            return {}
        if what == "metrics":
            return state.metrics(self, args.get("after", ""), args.get("most", 0))
        if what == "state":
            return state.services(self, args.get("service"))
        if what == "load":
            return load(self, args.get("after", ""))
        if what == "demand":
            return state.demand(self)
        if what == "keys":
            return state.keys(self)
        if what == "opas":
            return self.opas.silent()
        if what == "handshakes":
            return [failure._asdict() for failure in self.security.failures]
        raise ValueError(f"nothing is known here of {what!r}")

    def _explain_to_peer(self, question: Question, body: bytes) -> None:
        """Another agent explains a request that would come in here."""
        asked = read(body, Explain)
        if isinstance(asked, str):
            raise ValueError(asked)
        if asked.inbound is None:
            asked = msgspec.structs.replace(asked, inbound="")
        explain_soon(self, asked, PeerExplained(question).take)

    # Stopping.

    def drain(self) -> None:
        """Accept no more; every connection closes behind its next answer."""
        if self.draining:
            return
        self.draining = True
        for listener in self.listeners:
            listener.close()
        self._look_drained()

    def let_go(self) -> None:
        """Close who is between two requests, or has not come so far."""
        self.security.half_open.end()
        for connection in list(self.connections):
            if isinstance(connection, Guest) and connection.waits:
                connection.catch_up()
                if connection.waits and not connection.closed:
                    connection.close()

    def cut(self) -> None:
        """Close who is left: each request that was under way is counted, and has its record."""
        for connection in list(self.connections):
            connection.abort()

    def close(self) -> None:
        """Let go of everything."""
        self.security.half_open.end()
        self.cut()
        self.pool.close()
        self.reserve.close()
        self.reactor.close()
