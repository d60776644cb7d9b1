# mypyc: compiled
"""What a worker consults: for each service one compiled plan, swapped by one assignment.

Laws
- A request reads its plan once. Plans never change; a change is a new plan.
- What was learnt about a service and its endpoints (loads, budgets, positions, counters) lives in Service, beside the
  plans, and survives them.
- Plans are compiled as their frames come in and swapped together at the commit: a revision is applied whole, and the
  swap itself does no work.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from agent.frames import EndpointFrame, PolicyFrame, Uncompiled
from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.closed import Closed
from agent.proxy.report.news import News
from agent.proxy.report.story import InForce
from agent.proxy.table.plan import Compiled, Plan
from agent.proxy.table.service import Service
from policies.catalogue import BY_NAME, parse
from policies.decision import Forward
from policies.endpoint import Endpoint, Load
from policies.kinds.balance.entries import Entries
from policies.language.document import Document, Invalid
from policies.language.names import parse_service

_HOSTS: Final = 65536
_UNKNOWN: Final = Invalid("", "", "$", "nobody knows what it says")
_HOST_BYTES: Final = 400
"""No service's name is as long, and what was asked for is remembered."""


class Table:
    """Every service of the mesh. Filled by `stage` and `gone`, made so by `commit`."""

    def __init__(self, news: News | None = None) -> None:
        self._news = news or News()
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
        self._staged: dict[str, tuple[Service, Plan] | None] = {}
        self._wide: dict[tuple[str, str], tuple[bytes, Document | Invalid]] = {}
        """Policies for patterns, as parsed: one of them may come with a thousand services."""
        self._compiled = Compiled()
        self._entries = Entries()

    # The way of a change.

    def stage(
        self,
        name: str,
        revision: int,
        endpoints: Sequence[EndpointFrame],
        policies: Mapping[str, PolicyFrame],
        now: float,
    ) -> list[Uncompiled]:
        """Compile a service's new plan, to be swapped in at the commit. Returns what had to be refused."""
        staged = self._staged.get(name)
        service = self.services.get(name) or (staged[0] if staged else Service(name, self._news))
        in_force, closed, refused = self._documents(policies)
        before = self.services.get(name)
        ill = {e.id for e in before.plan.endpoints if not e.healthy} if before is not None else set()
        made = [self._endpoint(service, frame, ill, now) for frame in endpoints]
        plan = Plan(
            service,
            revision,
            made,
            in_force,
            host=self.host,
            zone=self.zone,
            share=self.share,
            entries=self._entries,
            compiled=self._compiled,
            closed=closed,
        )
        self._staged[name] = (service, plan)
        return refused

    def _documents(
        self, policies: Mapping[str, PolicyFrame]
    ) -> tuple[dict[str, InForce], list[Closed], list[Uncompiled]]:
        """What is in force; what nobody knows the content of, or this worker does not understand, where that refuses
        requests; and what this worker does not understand."""
        in_force: dict[str, InForce] = {}
        closed: list[Closed] = []
        refused: list[Uncompiled] = []
        for kind, frame in policies.items():
            document = self._parse(kind, frame) if not frame.unknown else _UNKNOWN
            if not isinstance(document, Invalid):
                in_force[kind] = InForce(frame.key, frame.revision, document.mode, document)
                continue
            if not frame.unknown:
                refused.append(Uncompiled(frame.key, document.path, document.reason, kind))
            if kind in BY_NAME and BY_NAME[kind].fails_closed:
                reason = frame.unknown or f"policies/{kind}/{frame.key} is not understood by this worker"
                closed.append(Closed(kind, frame.key, frame.revision, reason))
        return in_force, closed, refused

    def _parse(self, kind: str, frame: PolicyFrame) -> Document | Invalid:
        if "*" not in frame.key:
            return parse(kind, frame.key, frame.text)
        known = self._wide.get((kind, frame.key))
        if known is not None and not frame.text:
            return known[1]
        if known is None or known[0] != frame.text:
            known = self._wide[kind, frame.key] = (frame.text, parse(kind, frame.key, frame.text))
        return known[1]

    def _endpoint(self, service: Service, frame: EndpointFrame, ill: set[str], now: float) -> Endpoint:
        """`ill`: who was unhealthy in the plan before."""
        load = service.loads.get(frame.id)
        if load is None:
            # Endpoints that come with the first table were there before; only a newcomer is spared at first.
            load = service.loads[frame.id] = Load(
                now if self.ready and service.name in self.services else -float("inf")
            )
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
            load=load,
        )
        if frame.healthy and frame.id in ill:
            load.healthy_since = now
        return endpoint

    def gone(self, name: str) -> None:
        """Forget a service at the commit."""
        self._staged[name] = None

    def commit(self, revision: int, agents: int = 1) -> None:
        """Swap in everything that is staged. `agents` are in the mesh."""
        names_changed = False
        for name, staged in self._staged.items():
            before = self.services.get(name)
            asked = before.plan.asked if before is not None else 0
            if staged is None:
                names_changed |= self.services.pop(name, None) is not None
                self._entries.change(asked, 0)
                continue
            service, plan = staged
            self._entries.change(asked, plan.asked)
            service.adopt(plan, self.share, agents)
            if service.ejector is not None and service.judge is None:
                self.unjudged.append(service)
            if name not in self.services:
                self.services[name] = service
                names_changed = True
        self._staged = {}
        if self._entries.recount():
            for service in self.services.values():
                service.plan.forget_entries()
        if names_changed:
            self._by_host.clear()
        self.revision = revision
        self.ready = True

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

    def target(self, service: Service, forward: Forward) -> Service | Refusal:
        """The service whose endpoints a route's decision leads to: its own, or another."""
        if forward.service is None or forward.service == service.name:
            return service
        other = self.services.get(forward.service)
        if other is None:
            reason = f"the route leads to {forward.service}, and no such service is in this mesh"
            return Refusal(503, "route", reason, 1, unsent=True)
        return other

    def local_endpoint(self, plan: Plan, wanted: bytes | None, now: float, rng: random.Random) -> Endpoint | Refusal:
        """This host's instance that the inbound listener is asked for; any of the service's, when none is named."""
        if wanted is not None:
            service, _, identity = wanted.decode("latin-1").rpartition("/")
            endpoint = plan.local.get(identity) if service == plan.service else self._local(service, identity)
            if endpoint is None:
                return Refusal(503, "endpoint", f"{service}/{identity} is not on this host", 1, unsent=True)
            return Endpoint(
                endpoint.service, endpoint.id, endpoint.address, endpoint.port, agent=endpoint.agent, load=endpoint.load
            )
        candidates = [e for e in plan.local.values() if e.healthy and not e.draining] or list(plan.local.values())
        if not candidates:
            return Refusal(503, "endpoint", f"no instance of {plan.service} is on this host", 1, unsent=True)
        return rng.choice(candidates)

    def _local(self, service: str, identity: str) -> Endpoint | None:
        known = self.services.get(service)
        return known.plan.local.get(identity) if known is not None else None


def service_name(host: bytes) -> str:
    """The canonical service name in a Host; empty when there is none in it."""
    text = host.decode("latin-1")
    if text[:1] == "[":
        return ""
    try:
        return parse_service(text.partition(":")[0].rstrip("."))
    except ValueError:
        return ""
