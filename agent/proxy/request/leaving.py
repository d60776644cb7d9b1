# mypyc: compiled
"""A request to a host outside the mesh, of a program that has the mesh for its proxy (`HTTP_PROXY`).

Laws
- Only who means a proxy (absolute form) and proves to be a service of this host gets out: an agent is no open proxy.
- What the mesh says of a request stays in the mesh. Outside nobody hears of its caller, its deadline or its priority.
- What answers is judged like any answer, and believed in nothing.
- A service that is not there for who calls is asked for outside like a name that nobody has: nothing tells them apart.
"""

from __future__ import annotations

from agent.proxy.messages import flags, words
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import VIA, RequestHead
from agent.proxy.phases.verdict import Refuse
from agent.proxy.report import story
from agent.proxy.report.stats import count
from agent.proxy.request.shaped import Shaped
from agent.proxy.request.walk import Walk
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from agent.proxy.table.foreign import RESOLVE_S
from agent.proxy.table.service import Service
from policies.endpoint import Endpoint


def caller_of(walk: Walk) -> Service | None:
    """The service that calls, whose documents say what may leave."""
    return walk.runtime.table.services.get(walk.caller) if walk.caller else None


def may_leave(walk: Walk) -> bool:
    """Have the caller's phases their say; False: the request was answered."""
    caller = caller_of(walk)
    assert caller is not None
    return all(walk.meet(phase) for phase in caller.plan.leaving)


def is_named(walk: Walk) -> bool:
    """Whether a document that is enforced has allowed the very host that is asked for."""
    caller = caller_of(walk)
    return caller is not None and any(phase.kind == "egress" and not phase.audit for phase in caller.plan.leaving)


class Leaving(Shaped):
    """What a request to the mesh has none of."""

    __slots__ = ("_leaves", "_resolving", "_withheld_by")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self._leaves = False
        self._resolving = False
        self._withheld_by: Refuse | None = None
        """By what a service was kept from it (`withheld`)."""

    def set_off(self, service: Service, refusal: Refusal | None) -> None:
        """To a service; one that the caller is not to know of is none, where others would be asked for outside."""
        if refusal is None and self.request.absolute and not self._leaves and self._is_hidden(service):
            self.on_no_service()
        else:
            super().set_off(service, refusal)

    def _is_hidden(self, service: Service) -> bool:
        """Whether a service is not there for who calls, who may ask outside; counted when so."""
        if not service.plan.resolving or caller_of(self) is None:
            return False
        for phase in service.plan.resolving:
            verdict = None if phase.audit else phase.peek(self)
            if isinstance(verdict, Refuse):
                if verdict.said is None:
                    return False
                if phase.beside is not None:
                    self.count_audit(phase.beside, verdict, phase.beside.peek(self))
                self.count(phase, verdict)
                count(service.stats.refused, phase.kind)
                self.withheld, self._withheld_by = service, verdict
                return True
        return False

    def on_no_service(self) -> None:
        """None of this name is in the mesh: out of it, if it may."""
        caller = caller_of(self)
        request = self.request
        if caller is None or not request.absolute:
            super().on_no_service()
            return
        inside = self.runtime.table.find(request.host) if request.method == b"CONNECT" else None
        if inside is not None and not self._is_hidden(inside):
            if self.resolve(inside.plan):
                super().on_no_service()
            return
        if not may_leave(self):
            return
        self._leaves = True
        words.disbelieve(self.request, 0)
        named = is_named(self)
        found = self.runtime.foreign.find(self.request.host, named, self.reactor.now)
        if found is not None:
            self._on_found(found)
            return
        self._resolving = True
        self.down.arm(self.reactor.now + RESOLVE_S)
        self.runtime.foreign.ask(self.request.host, named, self.reactor.now, self._on_resolved)

    def _on_resolved(self, found: Service | Refusal) -> None:
        if self._resolving and not self.over:
            self._resolving = False
            self._on_found(found)

    def _on_found(self, found: Service | Refusal) -> None:
        if isinstance(found, Refusal):
            self._come_to_nothing(found)
            return
        if self.explained is not None:
            self.explained.append(story.leaves(self.request.host))
        self.set_off(found, None)

    def _come_to_nothing(self, said: Refusal) -> None:
        """Nobody has the name outside either. Whom a service was kept from is told what all are told; whoever operates
        is told by what it was."""
        by = self._withheld_by
        if by is None:
            self.refuse(Refuse(said))
        else:
            self.refuse(Refuse(by.refusal, what=by.what, by=by.by, said=said, counted=True))

    def say(self, refuse: Refuse) -> Refusal:
        """As of a name that nobody has, to the letter."""
        by, said = self._withheld_by, refuse.said
        return super().say(Refuse(said) if by is not None and said is not None and refuse.what == by.what else refuse)

    def on_client_timeout(self) -> None:
        """Its host's address is not found in time, or as for any request."""
        if self._resolving:
            self._resolving = False
            flag = flags.SERVICE_NO_ENDPOINT
            self._come_to_nothing(Refusal(504, "egress", "no address was found in time", unsent=True, flag=flag))
        else:
            super().on_client_timeout()

    def lines_for(self, endpoint: Endpoint, attempt: int, left_s: float) -> list[bytes]:
        """What is said of it outside: that a proxy was there (RFC 9110 section 7.6.3)."""
        if not self._leaves:
            return super().lines_for(endpoint, attempt, left_s)
        said = [field.value for field in self.request.special if field.code == VIA]
        return [b"via: %b\r\n" % b", ".join([*said, b"1.1 shoal"])]
