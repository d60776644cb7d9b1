"""What `shoal chain` finds, for every service that somebody was seen to call from."""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.chains import calls_of, default_hop, hops_of
from agent.cli.findings.facts import Facts
from agent.cli.findings.finding import Finding
from policies.chain import findings, tree


def of_chains(facts: Facts) -> Iterator[Finding]:
    """Each once, however many chains it is part of."""
    calls = calls_of(facts.census)
    hops, default = hops_of(facts.census), default_hop()
    called = {service for services in calls.values() for service in services}
    for root in sorted(calls.keys() - called) or sorted(calls):
        for found in findings(tree(root, calls, hops, default), hops):
            what = f"{' → '.join(found.path)}: {found.reason}"
            yield Finding(
                f"chain-{found.kind}", "warning", found.path[-1], what, f"`shoal chain {root}` shows the figures"
            )
