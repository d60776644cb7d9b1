"""Instances that are reached around their agents, and the guard that keeps their ports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agent.findings.finding import Finding, named
from agent.findings.of_mesh.facts import Facts
from policies.catalogue import parse
from policies.kinds.tls.document import TlsPolicy
from policies.language.document import Invalid
from policies.language.names import candidates

_GUARDS: Final = ("authn", "authz", "isolation", "ratelimit", "tls")
"""Kinds that only hold for what comes by the agent, and that somebody may want to get around."""
_SAY: Final = "let it listen on 127.0.0.1 ($HOST, as `shoal run` sets it), or guard its port (`shoal guard`)"


def of_exposed(facts: Facts) -> Iterator[Finding]:
    """A warning where a policy is gone around by it; an info where there is none to go around."""
    census = facts.census
    standing = {
        place: _enforced(*place, policy.text) for place, policy in census.policies.items() if place[0] in _GUARDS
    }
    for host, exposed in sorted(census.exposed.items()):
        for where, at in sorted(exposed.items()):
            service = where.partition("/")[0]
            around = [f"{kind}/{key}" for kind in _GUARDS for key in candidates(service) if standing.get((kind, key))]
            what = f"other hosts reach it around {named(around) if around else 'the mesh'}: {at} on {host} is open"
            yield Finding("open-port", "warning" if around else "info", where, what, _SAY)


def _enforced(kind: str, pattern: str, text: bytes) -> bool:
    document = parse(kind, pattern, text)
    if isinstance(document, Invalid) or document.mode != "enforce":
        return False
    return not isinstance(document, TlsPolicy) or document.mtls == "strict"


def of_guard(facts: Facts) -> Iterator[Finding]:
    """Of this host: rules that its settings count on, and instances that they are not for."""
    ranges = (facts.local or {}).get("guard", {}).get("ports") or []
    if facts.local is None or not ranges:
        return
    host = str(facts.local["host"])
    if facts.guard is None:
        what = "whether the rules of `shoal guard` stand, which its settings count on, is not known"
        yield Finding("guard", "info", host, what, "root sees them: `nft list table inet shoal_guard`")
    elif not facts.guard:
        what = "the rules of `shoal guard` do not stand, which its settings count on"
        yield Finding("guard", "warning", host, what, "`systemctl enable --now shoal-guard` (deploy/README.md)")
    outside = [
        f"{each['service']}/{each['id']}"
        for each in facts.local.get("local", [])
        if not any(low <= each["port"] <= high for low, high in ranges)
    ]
    if outside:
        what = f"its guard is not for the ports of {named(outside)}"
        yield Finding("guard", "info", host, what, "name them in [guard] of agent.toml, or start them at others")
