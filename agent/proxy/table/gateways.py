# mypyc: compiled
"""Endpoints of a service that is imported: gateways of another mesh, and nobody who is registered under its name here.

They are among a service's members like instances, so that what is learnt of them outlives plans.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.report.story import InForce, Policies
from agent.proxy.table.service import Service
from policies.endpoint import Endpoint, Load
from policies.kinds.import_ import decide as importing
from policies.kinds.import_.document import Import

MARK: Final = "gateway "
"""Begins the id of one: no instance's id has a space."""


def reached(
    service: Service, members: dict[str, Endpoint], policies: Policies, healthy_since: float
) -> tuple[Endpoint, ...]:
    """What requests of a service are sent to; its members get and lose gateways as its documents say. `healthy_since`:
    of those that are new."""
    found: InForce | None = policies.get("import")
    document = found.document if found is not None else None
    if not isinstance(document, Import):
        if service.imported:
            for name in [name for name in members if name.startswith(MARK)]:
                del members[name]
        return tuple(members.values())
    compiled = importing.compile(document)
    for name in [name for name in members if name.startswith(MARK)]:
        if name[len(MARK) :] not in compiled.gateways:
            del members[name]
    for text, (address, port) in compiled.gateways.items():
        name = MARK + text
        load = service.loads.get(name)
        if load is None:
            load = service.loads[name] = Load(healthy_since)
        members[name] = Endpoint(
            service.name,
            name,
            address,
            port,
            via=True,
            expected=compiled.expected,
            remote=compiled.remote_service,
            load=load,
        )
    return tuple([members[MARK + text] for text in compiled.gateways])
