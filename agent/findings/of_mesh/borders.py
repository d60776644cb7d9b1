"""Doors between meshes that lead nowhere: what is exported by way of nobody, and what is imported from who is not
believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from agent.findings.finding import Finding, named
from agent.findings.of_mesh.facts import Facts
from policies.catalogue import parse
from policies.kinds.export.decide import gateways
from policies.kinds.export.document import Export
from policies.kinds.import_.document import Import
from policies.language.document import Document
from policies.language.names import candidates
from policies.language.trust import SCHEME
from registry.census import Census

D = TypeVar("D", bound=Document)


def of_imports(facts: Facts) -> Iterator[Finding]:
    """What has no name of ours behind it, and what callers cannot be sent to."""
    census = facts.census
    for service, document in sorted(_enforced(census, "import", Import).items()):
        hidden = [id for name, id in sorted(census.instances) if name == service]
        if hidden:
            what = f"requests go to {document.trust_domain}, and none to what is registered here: {named(hidden)}"
            yield Finding("import-hides", "warning", f"import/{service}", what, "give one of the two another name")
        if reason := _unbelieved(facts, document.trust_domain):
            yield Finding(
                "no-bundle", "error", f"import/{service}", f"{reason}: callers get 503", _say(document.trust_domain)
            )


def of_exports(facts: Facts) -> Iterator[Finding]:
    """To whom nobody can prove anything, and by way of whom nobody comes in."""
    census = facts.census
    documents = _enforced(census, "export", Export)
    for pattern, document in sorted(documents.items()):
        domains = sorted({text.removeprefix(SCHEME).partition("/")[0] for text in document.to})
        for domain in domains:
            if reason := _unbelieved(facts, domain):
                yield Finding(
                    "no-bundle", "warning", f"export/{pattern}", f"{reason}: nobody of there comes in", _say(domain)
                )
        if gone := [host for host in document.gateways if host not in census.agents]:
            what = f"no agent lives on its gateway{'s' * (len(gone) > 1)} {named(gone)}"
            yield Finding(
                "no-gateway", "warning", f"export/{pattern}", what, "start them, or name others in $.gateways"
            )
    for service in sorted({service for service, _ in census.instances}):
        levels = [pattern for pattern in candidates(service) if pattern in documents]
        if levels:
            yield from _of_service(facts, service, levels, [documents[pattern] for pattern in levels])


def _of_service(facts: Facts, service: str, levels: list[str], documents: list[Export]) -> Iterator[Finding]:
    where = f"export/{levels[0]}"
    hosts = gateways(documents)
    if not hosts and any(document.gateways for document in documents):
        what = (
            f"the gateways of {service} that {named([f'export/{level}' for level in levels])} name have none in common"
        )
        yield Finding("no-gateway", "warning", where, what, "name one of them in each")
    for host in sorted(hosts & facts.census.agents.keys()):
        holds = facts.census.holds.get(host)
        until = holds.services.get(service) if holds is not None else None
        if until is None or until.timestamp() <= facts.now:
            what = f"its gateway {host} holds no certificate of {service}: callers fail in the handshake"
            say = f"`shoal host add {host} --service {service}`, if no grant names it; see `shoal ca status`"
            yield Finding("no-gateway", "error", where, what, say)


def _enforced(census: Census, kind: str, wanted: type[D]) -> dict[str, D]:
    found: dict[str, D] = {}
    for (known, pattern), policy in census.policies.items():
        document = parse(kind, pattern, policy.text) if known == kind else None
        if isinstance(document, wanted) and document.mode == "enforce":
            found[pattern] = document
    return found


def _unbelieved(facts: Facts, domain: str) -> str:
    """Why the agent of this host believes nobody of a trust domain; empty: it does, or none was asked."""
    if facts.local is None:
        return ""
    identity = facts.local.get("identity") or {}
    if not identity:
        return "nothing can be proven in this mesh yet"
    if domain in identity.get("federated", {}):
        return ""
    if domain == identity.get("trust_domain"):
        return f"{domain} is this mesh's own trust domain"
    return f"no bundle of {domain} is believed here"


def _say(domain: str) -> str:
    return f"`shoal trust add {domain} FILE`, with the bundle of there (`shoal ca export`)"
