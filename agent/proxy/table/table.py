# mypyc: compiled
"""What a worker consults: for each service one compiled plan, swapped by one assignment.

Laws
- A request reads its plan once. Plans never change; a change is a new plan.
- What was learnt about a service and its endpoints (loads, budgets, positions, counters) lives in Service, beside the
  plans, and survives them.
- Plans are compiled as their frames come in and swapped together at the commit: a revision is applied whole, and the
  swap itself does no work.
- The work of a change is that of the change: endpoints that are what they were are not made again, and policies that
  are what they were are not compiled again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from agent.frames import EndpointFrame, PolicyFrame, Uncompiled
from agent.proxy.messages import flags
from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.closed import Closed
from agent.proxy.phases.subject import Subject
from agent.proxy.report.news import News
from agent.proxy.report.signals import Room
from agent.proxy.report.story import InForce
from agent.proxy.table.asked import Compiled
from agent.proxy.table.gateways import reached
from agent.proxy.table.lasting import Book
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from policies.catalogue import BY_NAME, parse
from policies.decision import Forward
from policies.endpoint import Endpoint, Load
from policies.kind import Kind
from policies.kinds.authn.keyring import Keyring
from policies.kinds.balance.entries import Entries
from policies.language.document import Document, Invalid
from policies.language.names import parse_service
from policies.together import Together

NONE: Final[dict[str, PolicyFrame]] = {}
_HOSTS: Final = 65536
_UNKNOWN: Final = Invalid("", "", "$", "nobody knows what it says")
_HOST_BYTES: Final = 400
"""No service's name is as long, and what was asked for is remembered."""


class Staged:
    """A service as it will be at the commit."""

    __slots__ = ("audits", "closed", "in_force", "joined", "members", "plan", "service")

    def __init__(self, service: Service, members: dict[str, Endpoint], plan: Plan | None) -> None:
        """`plan`: of the same policies; None: they are others."""
        self.service = service
        self.members = members
        """Its endpoints, by id."""
        self.joined = False
        """Whether any of them is new."""
        self.plan = plan
        self.in_force: dict[str, InForce] = {}
        self.audits: dict[str, InForce] = {}
        self.closed: list[Closed] = []


class Table:
    """Every service of the mesh. Filled by `stage`, `change` and `gone`, made so by `commit`."""

    def __init__(self, news: News | None = None, together: Together | None = None) -> None:
        """`together`: what the workers of the agent count together."""
        self._news = news or News()
        self._together = together
        self._room = Room()
        self.services: dict[str, Service] = {}
        self.revision = 0
        self.ready = False
        self.host = ""
        self.zone = ""
        self.share = 1.0
        """This worker's part of what the agent may let pass."""
        self.unjudged: list[Service] = []
        """Services that have an ejector and, as yet, nobody who calls it."""
        self._by_host: dict[bytes, Service | None] = {}
        self._staged: dict[str, Staged | None] = {}
        self._failed: set[str] = set()
        """Services whose staged plan could not be compiled: what is in force stays."""
        self._wide: dict[tuple[str, str, str], tuple[bytes, Document | Invalid]] = {}
        """Policies for patterns, as parsed: one of them may come with a thousand services."""
        self.keyring = Keyring()
        """Of all issuers whose keys are fetched."""
        self._compiled = Compiled(self.keyring)
        self._entries = Entries()

    # The way of a change.

    def stage(
        self,
        name: str,
        revision: int,
        endpoints: Sequence[EndpointFrame],
        policies: Mapping[str, PolicyFrame],
        now: float,
        audits: Mapping[str, PolicyFrame] = NONE,
    ) -> list[Uncompiled]:
        """Compile a service's new plan, to be swapped in at the commit. `audits`: what is only watched. Returns what
        had to be refused."""
        staged = self._staged.get(name)
        service = self.services.get(name) or (staged.service if staged else None)
        if service is None:
            service = Service(name, self._news, self._together, self._room)
        self._staged[name] = made = Staged(service, {}, None)
        self._failed.add(name)
        refused = self._documents(made, policies, audits)
        self._compile(made, revision, endpoints, (), now)
        return refused

    def change(
        self,
        name: str,
        revision: int,
        endpoints: Sequence[EndpointFrame],
        gone: Sequence[str],
        policies: Mapping[str, PolicyFrame] | None,
        now: float,
        *,
        audits: Mapping[str, PolicyFrame] = NONE,
        more: bool = False,
    ) -> list[Uncompiled]:
        """Compile a service's new plan from what it is, or will be at the commit: of the endpoints only those that are
        named are others, and the policies, and what is only watched, are as they are where no policies are given. With
        `more` that is left to the change that follows. Returns what had to be refused."""
        if name in self._failed:
            return []  # its base is missing, and that was told
        staged = self._staged.get(name)
        if staged is None:
            if name in self._staged or name not in self.services:
                self._failed.add(name)
                raise ValueError(f"a change of {name}, which is not here")
            service = self.services[name]
            staged = self._staged[name] = Staged(service, service.members.copy(), service.plan)
        self._failed.add(name)
        refused: list[Uncompiled] = []
        if policies is not None:
            staged.plan = None
            refused = self._documents(staged, policies, audits)
        if more:
            self._take(staged, endpoints, gone, now)
            self._failed.discard(name)
        else:
            self._compile(staged, revision, endpoints, gone, now)
        return refused

    def _take(self, staged: Staged, endpoints: Sequence[EndpointFrame], gone: Sequence[str], now: float) -> None:
        service, members = staged.service, staged.members
        for frame in endpoints:
            staged.joined = staged.joined or frame.id not in service.members
            members[frame.id] = self._endpoint(service, frame, now)
        for identity in gone:
            members.pop(identity, None)

    def _compile(
        self, staged: Staged, revision: int, endpoints: Sequence[EndpointFrame], gone: Sequence[str], now: float
    ) -> None:
        self._take(staged, endpoints, gone, now)
        before = staged.plan
        policies = staged.in_force if before is None else before.policies
        staged.plan = Plan(
            staged.service,
            revision,
            reached(staged.service, staged.members, policies, self._healthy_since(staged.service, now)),
            policies,
            host=self.host,
            zone=self.zone,
            share=self.share,
            entries=self._entries,
            compiled=self._compiled,
            closed=staged.closed,
            audits=staged.audits,
            before=before,
        )
        self._failed.discard(staged.service.name)

    def _documents(
        self, staged: Staged, policies: Mapping[str, PolicyFrame], audits: Mapping[str, PolicyFrame]
    ) -> list[Uncompiled]:
        """What is in force, and what is only watched; what nobody knows the content of, or this worker does not
        understand, where that refuses requests. Returns what this worker does not understand.

        A control of before does not tell apart what is only watched: then the document says it.
        """
        staged.in_force, staged.audits, staged.closed = {}, {}, []
        refused: list[Uncompiled] = []
        for kind, frame in policies.items():
            for level in (frame, *frame.wider):
                document = self._parse(kind, level, "enforce") if not level.unknown else _UNKNOWN
                if not isinstance(document, Invalid):
                    _put(staged.audits if document.mode == "audit" else staged.in_force, kind, level, document)
                    continue
                if not level.unknown:
                    refused.append(Uncompiled(level.key, document.path, document.reason, kind))
                if kind in BY_NAME and BY_NAME[kind].fails_closed:
                    _close(staged, BY_NAME[kind], level)
        for kind, frame in audits.items():
            staged.audits.pop(kind, None)
            for level in (frame, *frame.wider):
                document = self._parse(kind, level, "audit")
                if isinstance(document, Invalid):
                    refused.append(Uncompiled(level.key, document.path, document.reason, kind))
                else:
                    _put(staged.audits, kind, level, document, "audit")
        return refused

    def _parse(self, kind: str, frame: PolicyFrame, mode: str) -> Document | Invalid:
        if "*" not in frame.key:
            return parse(kind, frame.key, frame.text)
        place = kind, frame.key, mode
        known = self._wide.get(place)
        if known is not None and not frame.text:
            return known[1]
        if known is None or known[0] != frame.text:
            known = self._wide[place] = (frame.text, parse(kind, frame.key, frame.text))
        return known[1]

    def _endpoint(self, service: Service, frame: EndpointFrame, now: float) -> Endpoint:
        load = service.loads.get(frame.id)
        if load is None:
            load = service.loads[frame.id] = Load(self._healthy_since(service, now))
        endpoint = Endpoint(
            service.name,
            frame.id,
            frame.address,
            frame.port,
            version=frame.version,
            zone=frame.zone,
            weight=frame.weight,
            metadata=frame.metadata or None,
            healthy=frame.healthy,
            draining=frame.draining,
            suspect=frame.suspect,
            agent=frame.agent,
            dial=(frame.dial_address, frame.dial_port),
            via=frame.via,
            secured_until=frame.secured_until,
            load=load,
        )
        before = service.members.get(frame.id)
        if frame.healthy and before is not None and not before.healthy:
            load.healthy_since = now
        load.new = not frame.healthy and (load.new if before is not None else self._is_known(service))
        return endpoint

    def _healthy_since(self, service: Service, now: float) -> float:
        """Endpoints that come with the first table were there before; only a newcomer is spared at first."""
        return now if self._is_known(service) else -float("inf")

    def _is_known(self, service: Service) -> bool:
        return self.ready and service.name in self.services

    def gone(self, name: str) -> None:
        """Forget a service at the commit."""
        self._staged[name] = None

    def commit(self, revision: int, agents: int = 1) -> list[Service]:
        """Swap in everything that is staged. `agents` are in the mesh. Returns the services that have another plan."""
        names_changed = False
        adopted: list[Service] = []
        for name, staged in self._staged.items():
            before = self.services.get(name)
            asked = before.plan.asked if before is not None else 0
            if staged is None:
                names_changed |= self.services.pop(name, None) is not None
                if before is not None:
                    before.stats.signals.leave()
                self._entries.change(asked, 0)
                continue
            plan = staged.plan
            if plan is None or name in self._failed:
                continue
            service = staged.service
            self._entries.change(asked, plan.asked)
            service.adopt(plan, staged.members, staged.joined, self.share, agents)
            adopted.append(service)
            if _unjudged(service) or (service.audits is not None and _unjudged(service.audits)):
                self.unjudged.append(service)
            if name not in self.services:
                self.services[name] = service
                names_changed = True
        self._staged = {}
        self._failed.clear()
        if self._entries.recount():
            for service in self.services.values():
                service.plan.forget_entries()
        if names_changed:
            self._by_host.clear()
        self.revision = revision
        self.ready = True
        return adopted

    # The way of a request.

    def find(self, host: bytes) -> Service | None:
        """The service that a Host names: `pets.production`, any case, with or without a port."""
        if len(host) > _HOST_BYTES:
            return None
        try:
            return self._by_host[host]
        except KeyError:
            service = self.services.get(service_name(host))
            if len(self._by_host) >= _HOSTS:
                self._by_host.clear()
            self._by_host[host] = service
            return service

    def target(self, service: Service, forward: Forward, subject: Subject) -> Service | Refusal:
        """The service whose endpoints a route's decision leads to: its own, or another that is there for who calls."""
        if forward.service is None or forward.service == service.name:
            return service
        other = self.services.get(forward.service)
        if other is None or ((other.plan.resolving or subject.stranger) and not other.plan.is_there(subject)):
            reason = f"the route leads to {forward.service}, and no such service is in this mesh"
            return Refusal(503, "route", reason, 1, unsent=True)
        return other

    def local_endpoint(self, plan: Plan, wanted: bytes | None, now: float, rng: random.Random) -> Endpoint | Refusal:
        """This host's instance that the inbound listener is asked for; any of the service's, when none is named."""
        if wanted is not None:
            service, _, identity = wanted.decode("latin-1").rpartition("/")
            known = plan if service == plan.service else self._plan(service)
            endpoint = known.local.get(identity) if known is not None else None
            if endpoint is None and known is not None:
                endpoint = known.local.get(self._other_name(identity))
            if endpoint is None:
                return _none_here(f"{service}/{identity} is not on this host")
            return Endpoint(
                endpoint.service,
                endpoint.id,
                endpoint.address,
                endpoint.port,
                version=endpoint.version,
                agent=endpoint.agent,
                load=endpoint.load,
            )
        candidates = [e for e in plan.local.values() if e.healthy and not e.draining] or list(plan.local.values())
        if not candidates:
            return _none_here(f"no instance of {plan.service} is on this host")
        return rng.choice(candidates)

    def _plan(self, service: str) -> Plan | None:
        known = self.services.get(service)
        return known.plan if known is not None else None

    def _other_name(self, identity: str) -> str:
        """What an instance of this host is called by who has heard later, or earlier, that its key is the host's."""
        own = f"@{self.host}"
        return identity.removesuffix(own) if identity.endswith(own) else identity + own


def _put(into: dict[str, InForce], kind: str, frame: PolicyFrame, document: Document, mode: str = "") -> None:
    """Beside those of the same kind that are more specific."""
    policy = InForce(frame.key, frame.revision, mode or document.mode, document)
    known = into.get(kind)
    into[kind] = policy if known is None else known._replace(wider=(*known.wider, policy))


def _close(staged: Staged, kind: Kind, frame: PolicyFrame) -> None:
    """Of a kind that guards: what nobody knows, or this worker does not understand, lets no more pass than it could."""
    if kind.tightest is not None:
        _put(staged.in_force, kind.name, frame, kind.tightest)
        return
    reason = frame.unknown or f"policies/{kind.name}/{frame.key} is not understood by this worker"
    staged.closed.append(Closed(kind.name, frame.key, frame.revision, reason))


def _unjudged(book: Book) -> bool:
    return book.ejector is not None and book.judge is None


def service_name(host: bytes) -> str:
    """The canonical service name in a Host; empty when there is none in it."""
    text = host.decode("latin-1")
    if text[:1] == "[":
        return ""
    try:
        return parse_service(text.partition(":")[0].rstrip("."))
    except ValueError:
        return ""


def _none_here(reason: str) -> Refusal:
    return Refusal(503, "endpoint", reason, 1, unsent=True, flag=flags.SERVICE_NO_ENDPOINT)
