from __future__ import annotations

from agent.cli.identity.domain import Domain
from agent.cli.identity.report import report
from registry.keys import Keys
from registry.records import Agent, Seen
from tests.support.identity import NOW_S, Authority

EARLY, LATE = "2026-01-01T00:00:00.000Z", "2026-01-01T00:05:00.000Z"


def test_who_sends_plain_text_is_named_once() -> None:
    """By host where an agent is registered at the address, whichever end has seen it, with the latest time."""
    domain = Domain(
        keys=Keys(),
        bundle=Authority().bundle,
        agents={host: Agent(address=f"10.0.0.{n}", inbound_port=15006) for n, host in enumerate(("web-0", "web-1"))},
        seen={
            "web-0": Seen(plain={"pets": {"web-1": EARLY}, "vets": {"web-1": LATE}}),
            "web-1": Seen(plain={"pets": {"10.0.0.0": LATE, "203.0.113.7": EARLY, "others": EARLY}}),
        },
    )
    assert report(domain, NOW_S)["plain"] == [
        {"from": "203.0.113.7", "to": "web-1", "services": ["pets"], "last": EARLY},
        {"from": "others", "to": "web-1", "services": ["pets"], "last": EARLY},
        {"from": "web-0", "to": "web-1", "services": ["pets", "vets"], "last": LATE},
    ]


def test_plain_text_alone_is_no_fault() -> None:
    """Permissive is for that."""
    plain = Domain(keys=Keys(), bundle=Authority().bundle, seen={"web-1": Seen(plain={"pets": {"a": EARLY}})})
    without = Domain(keys=Keys(), bundle=Authority().bundle)
    assert report(plain, NOW_S)["wrong"] == report(without, NOW_S)["wrong"]
