"""The chains of calls that agents have seen, what is in force along them, and what `shoal chain` finds there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.findings.finding import Finding
from agent.findings.of_mesh.facts import Facts
from policies import hops
from policies.catalogue import parse
from policies.chain import Hop, findings, tree
from policies.language.document import says_audit
from policies.language.names import candidates
from registry.census import Census


def of_chains(facts: Facts) -> Iterator[Finding]:
    """Each once, however many chains it is part of."""
    calls = calls_of(facts.census)
    known, default = hops_of(facts.census), hops.default_hop()
    called = {service for services in calls.values() for service in services}
    for root in sorted(calls.keys() - called) or sorted(calls):
        for found in findings(tree(root, calls, known, default), known):
            what = f"{' → '.join(found.path)}: {found.reason}"
            yield Finding(
                f"chain-{found.kind}", "warning", found.path[-1], what, f"`shoal chain {root}` shows the figures"
            )


def calls_of(census: Census) -> dict[str, frozenset[str]]:
    """Which service calls which; callers that do not say who they are left out."""
    return {caller: frozenset(services) for caller, services in census.calls.items() if caller}


def hops_of(census: Census, *more: str, extra: Mapping[tuple[str, str], bytes] | None = None) -> dict[str, Hop]:
    """What is in force for each service that calls or is called, and for `more`; with `extra` documents in force. What
    is only watched takes nothing out of force."""
    texts = {identity: policy.text for identity, policy in census.policies.items()} | dict(extra or {})
    texts = {identity: text for identity, text in texts.items() if not says_audit(text)}

    def find(kind: str, service: str) -> tuple[str, Any]:
        pattern, text = _most_specific(kind, service, texts)
        return pattern, parse(kind, pattern, text) if text else None

    return hops.hops_of({*more, *hops.services_of(calls_of(census))}, find)


def _most_specific(kind: str, service: str, texts: Mapping[tuple[str, str], bytes]) -> tuple[str, bytes]:
    for pattern in candidates(service):
        if (kind, pattern) in texts:
            return pattern, texts[kind, pattern]
    return "", b""
