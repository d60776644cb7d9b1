"""Every check, in the order in which people read what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from agent.findings.finding import Finding, ordered
from agent.findings.of_mesh.borders import of_exports, of_imports
from agent.findings.of_mesh.callers import of_api_keys, of_callers
from agent.findings.of_mesh.chains import of_chains
from agent.findings.of_mesh.documents import of_audits, of_claims, of_documents, of_refusals
from agent.findings.of_mesh.etcd import of_doors, of_members
from agent.findings.of_mesh.facts import Facts
from agent.findings.of_mesh.guards import of_authz, of_isolation, of_tls
from agent.findings.of_mesh.host import of_local_agent
from agent.findings.of_mesh.layout import of_layout
from agent.findings.of_mesh.mesh import of_agents, of_clocks, of_instances, of_keys, of_meshes
from agent.findings.of_mesh.reached import of_exposed, of_guard

Check = Callable[[Facts], Iterator[Finding]]
CHECKS: Final[tuple[Check, ...]] = (
    of_members,
    of_doors,
    of_agents,
    of_layout,
    of_clocks,
    of_local_agent,
    of_exposed,
    of_guard,
    of_refusals,
    of_documents,
    of_claims,
    of_callers,
    of_api_keys,
    of_audits,
    of_isolation,
    of_authz,
    of_tls,
    of_exports,
    of_imports,
    of_chains,
    of_instances,
    of_keys,
    of_meshes,
)


def findings(facts: Facts, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """What is wrong, the worst first."""
    return ordered(found for check in checks for found in check(facts))
