# mypyc: compiled
"""A table as it would be with other documents, for one question: what is in force, and what was learnt, stays as it is.

Laws
- Services for which other documents would be in force are made anew, with endpoints as they are and figures of their
  own: nobody's load, count or turn is touched.
- What they have learnt about limits, breakers and budgets begins anew in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.proxy.report.news import News
from agent.proxy.report.signals import Room
from agent.proxy.table.asked import Compiled
from agent.proxy.table.gateways import MARK
from agent.proxy.table.service import Service
from agent.proxy.table.table import Staged, Table
from agent.questions import Supposed
from policies.endpoint import Endpoint, Load


class SupposedTable(Table):
    """Beside another one. Raises ValueError for documents that this worker does not understand."""

    def __init__(self, table: Table, supposed: Sequence[Supposed]) -> None:
        super().__init__(News())
        self.host = table.host
        self.zone = table.zone
        self.share = table.share
        self.revision = table.revision
        self.ready = True
        self.keyring = table.keyring
        self._compiled = Compiled(table.keyring)  # what is compiled of documents that nobody has put is kept nowhere
        self.services = table.services.copy()
        for each in supposed:
            known = table.services.get(each.service)
            if known is not None:
                self.services[known.name] = self._suppose(known, each)

    def _suppose(self, known: Service, each: Supposed) -> Service:
        service = Service(known.name, News(), None, Room())
        members: dict[str, Endpoint] = {}
        for name, endpoint in known.members.items():
            if not name.startswith(MARK):
                load = Load(endpoint.load.healthy_since)
                load.new, load.active = endpoint.load.new, endpoint.load.active
                load.refused_until = endpoint.load.refused_until
                load.ewma_s, load.ewma_at = endpoint.load.ewma_s, endpoint.load.ewma_at
                service.loads[name] = load
                members[name] = _with(endpoint, load)
        staged = Staged(service, members, None)
        refused = self._documents(staged, each.policies, each.audits)
        if refused:
            raise ValueError(f"{refused[0].path}: {refused[0].reason}")
        self._compile(staged, self.revision, (), (), float("-inf"))
        assert staged.plan is not None
        service.adopt(staged.plan, members, True, self.share, 1)
        return service


def _with(endpoint: Endpoint, load: Load) -> Endpoint:
    return Endpoint(
        endpoint.service,
        endpoint.id,
        endpoint.address,
        endpoint.port,
        version=endpoint.version,
        zone=endpoint.zone,
        weight=endpoint.weight,
        metadata=endpoint.metadata,
        healthy=endpoint.healthy,
        draining=endpoint.draining,
        suspect=endpoint.suspect,
        agent=endpoint.agent,
        dial=endpoint.dial,
        via=endpoint.via,
        secured_until=endpoint.secured_until,
        load=load,
    )
