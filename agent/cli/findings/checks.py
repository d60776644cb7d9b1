"""Every check, in the order in which people read what they find."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from agent.cli.census import Census, Policy
from agent.cli.documents import Source, key
from agent.cli.enforcing import Text
from agent.cli.findings.borders import of_exports, of_imports
from agent.cli.findings.chains import of_chains
from agent.cli.findings.documents import of_audits, of_claims, of_documents, of_refusals
from agent.cli.findings.etcd import of_doors, of_members
from agent.cli.findings.facts import Facts
from agent.cli.findings.finding import Finding, ordered
from agent.cli.findings.guards import of_authz, of_isolation, of_tls
from agent.cli.findings.host import of_local_agent, of_open_ports
from agent.cli.findings.layout import of_layout
from agent.cli.findings.mesh import of_agents, of_clocks, of_instances, of_keys, of_meshes
from agent.cli.findings.reached import of_exposed, of_guard

Check = Callable[[Facts], Iterator[Finding]]
CHECKS: Final[tuple[Check, ...]] = (
    of_members,
    of_doors,
    of_agents,
    of_layout,
    of_clocks,
    of_local_agent,
    of_open_ports,
    of_exposed,
    of_guard,
    of_refusals,
    of_documents,
    of_claims,
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
OF_A_PUT: Final[tuple[Check, ...]] = (
    of_documents,
    of_claims,
    of_audits,
    of_isolation,
    of_authz,
    of_tls,
    of_imports,
    of_chains,
)
"""Of documents that are about to be put."""


def findings(facts: Facts, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """What is wrong, the worst first."""
    return ordered(found for check in checks for found in check(facts))


def warnings(
    census: Census,
    puts: Sequence[Source],
    removed: Collection[tuple[str, str]],
    unwatched: Collection[tuple[str, str]] = (),
) -> list[Finding]:
    """What would be wrong, were these documents put and those removed: with them, and with others by them.
    `unwatched`: those removed that are under `audits/`."""
    then = {place: policy for place, policy in census.policies.items() if place not in removed}
    audits = {place: policy for place, policy in census.audits.items() if place not in unwatched}
    for source in puts:
        room = audits if source.watched else then
        room[source.kind, source.service] = Policy(source.kind, source.service, census.revision, source.text)
    now = set(findings(Facts(census=census), OF_A_PUT))
    after = findings(Facts(census=msgspec.structs.replace(census, policies=then, audits=audits)), OF_A_PUT)
    put = {key(source) for source in puts}
    return [
        found for found in after if found.severity != "info" and (found not in now or found.where.split()[0] in put)
    ]


def about(census: Census, documents: Iterable[Text]) -> list[Finding]:
    """What is wrong with documents that stand in etcd."""
    put = {document.key for document in documents}
    if not put:
        return []
    found = findings(Facts(census=census), (of_documents,))
    return [finding for finding in found if finding.severity != "info" and finding.where.split()[0] in put]
