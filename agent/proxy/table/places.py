# mypyc: compiled
"""Whether there is anybody where a decision leads: for ways out of an overload, and for shares of a split."""

from __future__ import annotations

import random

import msgspec

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.subject import Subject
from agent.proxy.table.service import Service
from agent.proxy.table.table import Table
from policies.decision import Decision, Forward
from policies.request import RequestView


def takes_over(table: Table, service: Service, way: Forward, subject: Subject) -> bool:
    """Whether a way out leads to an endpoint that is well, and stays."""
    target = table.target(service, way, subject)
    if isinstance(target, Refusal):
        return False
    return any(
        endpoint.healthy and not endpoint.draining and (way.subset is None or way.subset.selects(endpoint))
        for endpoint in target.plan.endpoints
    )


class Places:
    """Of the targets of a split, as the table is now for a request."""

    __slots__ = ("_service", "_subject", "_table")

    def __init__(self, table: Table, service: Service, subject: Subject) -> None:
        self._table = table
        self._service = service
        self._subject = subject

    def serves(self, decision: Decision) -> bool:
        """Whether any instance at a target can serve."""
        forward = decision.action
        return isinstance(forward, Forward) and self.leads(forward)

    def leads(self, forward: Forward) -> bool:
        """Whether any instance there can serve."""
        target = self._table.target(self._service, forward, self._subject)
        return not isinstance(target, Refusal) and target.plan.group(forward.subset).serves

    def instead(self, forward: Forward, request: RequestView, rng: random.Random) -> Decision | None:
        """Where a request goes whose share cannot be served, with what its rule makes of it; None: where it would."""
        others = forward.others
        if others is None or self.leads(forward):
            return None
        found = others.choose(request, forward.cookie, rng, self.serves)
        if found is None:
            return None
        place = found.action
        assert isinstance(place, Forward)
        kept = msgspec.structs.replace(forward, service=place.service, subset=place.subset)
        return Decision(found.rule, found.reason, kept, found.shares)
