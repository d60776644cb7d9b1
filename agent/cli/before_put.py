"""What documents would do that are about to be put, and what is wrong with those that were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from agent.cli.documents import Source, key
from agent.findings.finding import Finding
from agent.findings.of_mesh import borders, chains, documents, guards
from agent.findings.of_mesh.checks import Check, findings
from agent.findings.of_mesh.enforcing import ROOMS
from agent.findings.of_mesh.facts import Facts
from registry.census import Census, Policy

if TYPE_CHECKING:
    from agent.findings.of_mesh.enforcing import Text
    from policies.chain import Finding as OfChain
    from registry.store import Store

OF_A_PUT = (
    documents.of_documents,
    documents.of_claims,
    documents.of_audits,
    guards.of_isolation,
    guards.of_authz,
    guards.of_tls,
    borders.of_imports,
    chains.of_chains,
)
"""Checks of documents."""
OF_GUARDS = (guards.of_isolation, guards.of_authz, guards.of_tls)
"""Those of them that say which requests would be refused."""


async def around(store: Store, mesh: str, sources: Sequence[Source]) -> Census:
    """What checks of these documents look at. Raises StoreError."""
    from registry.census import take, trust_domain

    kinds = {source.kind for source in sources}
    tls = ("identity",) if "tls" in kinds else ()
    census = await take(store, mesh, "policies", "audits", "instances", "seen", *ROOMS, *tls)
    if "authz" in kinds and not census.trust_domain:
        census.trust_domain = await trust_domain(store, mesh)  # rules may name services by it
    return census


def warnings(
    census: Census,
    puts: Sequence[Source],
    removed: Collection[tuple[str, str]],
    unwatched: Collection[tuple[str, str]] = (),
    checks: tuple[Check, ...] = OF_A_PUT,
) -> list[Finding]:
    """What would be wrong, were these documents put and those removed: with them, and with others by them.
    `unwatched`: those removed that are under `audits/`."""
    then = {place: policy for place, policy in census.policies.items() if place not in removed}
    audits = {place: policy for place, policy in census.audits.items() if place not in unwatched}
    for source in puts:
        room = audits if source.watched else then
        room[source.kind, source.service] = Policy(source.kind, source.service, census.revision, source.text)
    now = set(findings(Facts(census=census), checks))
    after = findings(Facts(census=msgspec.structs.replace(census, policies=then, audits=audits)), checks)
    put = {key(source) for source in puts}
    return [
        found for found in after if found.severity != "info" and (found not in now or found.where.split()[0] in put)
    ]


def about(census: Census, texts: Iterable[Text]) -> list[Finding]:
    """What is wrong with documents that stand in etcd."""
    put = {text.key for text in texts}
    if not put:
        return []
    found = findings(Facts(census=census), (documents.of_documents,))
    return [finding for finding in found if finding.severity != "info" and finding.where.split()[0] in put]


def along_chains(census: Census, sources: Sequence[Source]) -> list[OfChain]:
    """What would be wrong with the chains that there are, were these documents put, and is not wrong now."""
    from policies.chain import findings, tree
    from policies.hops import default_hop

    calls = chains.calls_of(census)
    roots = sorted({*calls, *(source.service for source in sources if "*" not in source.service)})
    now = chains.hops_of(census, *roots)
    extra = {(source.kind, source.service): source.text for source in sources if not source.watched}
    then = chains.hops_of(census, *roots, extra=extra)
    default = default_hop()
    known = {str(finding) for root in roots for finding in findings(tree(root, calls, now, default), now)}
    fresh: dict[str, OfChain] = {}
    for root in roots:
        for finding in findings(tree(root, calls, then, default), then):
            if str(finding) not in known:
                fresh.setdefault(str(finding), finding)
    return list(fresh.values())
