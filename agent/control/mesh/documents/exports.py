"""Which services a host is a gateway of: it takes callers of other meshes in, and has to prove to be them. Pure."""

from __future__ import annotations

from collections.abc import Collection

from agent.control.mesh.documents.in_force import InForce
from policies.kinds.export.decide import gateways
from policies.kinds.export.document import Export
from policies.language.names import candidates, matches


def taken_in(in_force: InForce, host: str, services: Collection[str]) -> set[str]:
    """Of these, by the documents of every level. It costs nothing where none names the host."""
    documents = {
        pattern: policy.document
        for pattern, policy in in_force.enforced.get("export", {}).items()
        if isinstance(policy.document, Export)
    }
    here = [pattern for pattern, document in documents.items() if host in document.gateways]
    if not here:
        return set()
    closed = in_force.closed.get("export", {})
    found = set()
    for name in services:
        if any(matches(pattern, name) for pattern in here):
            levels = [pattern for pattern in candidates(name) if pattern in documents or pattern in closed]
            known = not any(pattern in closed for pattern in levels)
            if known and host in gateways([documents[pattern] for pattern in levels]):
                found.add(name)
    return found
