"""What guards would break: calls that were seen, and hops that cannot be TLS; before a document is put, and after."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from agent.cli.before_put import warnings
from agent.cli.documents import Source
from agent.findings.finding import Finding
from agent.findings.of_mesh.checks import findings
from agent.findings.of_mesh.facts import Facts
from agent.findings.of_mesh.guards import NOT_READY, of_isolation, of_tls
from registry.census import Census, Policy
from registry.identity_records import Holds
from registry.records import Agent, Instance

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
PETS, CATS = "pets.production", "cats.production"
STRICT = {"mtls": "strict"}


def census(policies: dict[str, Any], **more: Any) -> Census:
    """Two hosts with a service each, which hold what they need."""
    made = Census(
        revision=9,
        agents={
            host: Agent(address="10.0.0.1", inbound_port=15006, started="2026-03-01T12:00:00Z")
            for host in ("web-1", "web-2")
        },
        instances={
            (PETS, "a"): Instance(address="10.0.0.1", port=1, agent="web-1"),
            (CATS, "b"): Instance(address="10.0.0.2", port=1, agent="web-2"),
        },
        holds={"web-1": holds(PETS), "web-2": holds(CATS)},
        bundle=3,
        policies={
            (kind, pattern): Policy(kind, pattern, 5, json.dumps(document).encode())
            for kind, _, pattern, document in ((*key.partition("/"), value) for key, value in policies.items())
        },
    )
    return msgspec.structs.replace(made, **more)


def holds(*services: str, bundle: int = 3, agent: datetime | None = LATER, until: datetime = LATER) -> Holds:
    return Holds(trust_domain="x", bundle=bundle, agent=agent, services=dict.fromkeys(services, until))


def insecure(made: Census, now: datetime = NOW) -> list[Finding]:
    return list(of_tls(Facts(census=made, now=now.timestamp())))


def test_who_holds_everything() -> None:
    """Nothing is found, and nothing where nothing is strict."""
    assert insecure(census({"tls/*": STRICT})) == []
    bare = census({"tls/*": {"mtls": "permissive"}, f"tls/{PETS}": {**STRICT, "mode": "audit"}}, holds={})
    assert insecure(bare) == [] and insecure(census({}, holds={})) == []


@pytest.mark.parametrize(
    ("of_web_2", "said"),
    [
        (None, "web-2 holds no certificate of its own"),
        (holds(CATS, agent=None), "web-2 holds no certificate of its own"),
        (holds(CATS, agent=NOW - timedelta(seconds=1)), "web-2 holds no certificate of its own"),
        (holds(CATS, bundle=2), "web-2 runs bundle 2 of roots, and 3 stands"),
        (holds(), "web-2 holds no certificate of cats.production"),
        (holds(PETS), "web-2 holds no certificate of cats.production"),
        (holds(CATS, until=NOW), "web-2 holds no certificate of cats.production"),
    ],
)
def test_a_host_that_lacks_something(of_web_2: Holds | None, said: str) -> None:
    """Is named, with what it lacks; whoever decides is, too."""
    held = {"web-1": holds(PETS), **({"web-2": of_web_2} if of_web_2 else {})}
    (found,) = insecure(census({"tls/*.production": STRICT, f"tls/{PETS}": {"mtls": "off"}}, holds=held))
    assert (found.id, found.severity, found.where) == (NOT_READY, "error", "tls/*.production")
    assert found.what.startswith(f"{said}: ")


def test_only_hosts_of_the_services_concerned_need_theirs() -> None:
    """The others need their own, to call."""
    held = {"web-1": holds(PETS), "web-2": holds()}
    assert insecure(census({f"tls/{PETS}": STRICT}, holds=held)) == []
    (found,) = insecure(census({f"tls/{PETS}": STRICT}, holds={"web-1": holds(PETS)}))
    assert found.what.startswith("web-2 holds no certificate of its own")


def test_instances_without_an_agent() -> None:
    """Want an origin at some level."""
    instances = {(PETS, "a"): Instance(address="10.0.0.1", port=1), (PETS, "b"): Instance(address="10.0.0.1", port=2)}
    (found,) = insecure(census({"tls/*": STRICT}, instances=instances))
    assert found.what.startswith("no agent stands before pets.production/a and pets.production/b, and no origin says")
    plain = {"mtls": "off", "origin": {"speaks": "plain"}}
    assert insecure(census({"tls/*": STRICT, f"tls/{PETS}": plain}, instances=instances)) == []


def test_it_is_said_before_it_is_put() -> None:
    """And of others' documents nothing new."""
    held = {"web-1": holds(PETS, bundle=3)}
    now = census({"tls/*": {"mtls": "permissive"}, "isolation/*": {"allow": ["*"]}}, holds=held)
    now.calls = {"shop.production": {PETS, CATS}, "web": {PETS}}
    put = [Source("x", "tls", "*.production", json.dumps(STRICT).encode())]
    assert [(found.id, found.where) for found in warnings(now, put, ())] == [(NOT_READY, "tls/*.production")]
    put = [Source("x", "isolation", "*.production", json.dumps({"allow": ["*.production"]}).encode())]
    (found,) = warnings(now, put, ())
    assert (found.id, found.severity, found.where) == ("isolated", "warning", "isolation/*.production")
    assert found.what == "cuts off what was seen to be called: web → pets.production"
    strict = census({"tls/*": STRICT}, holds=held)
    assert warnings(strict, [Source("x", "retry", PETS, b'{"attempts": 2}')], ()) == []


@pytest.mark.parametrize("narrow", ["*", "*.production", PETS])
def test_each_level_may_cut_calls(narrow: str) -> None:
    """The one that does is named; what is only watched cuts none."""
    documents = {
        f"isolation/{pattern}": {"allow": ["cats.production"] if pattern == narrow else ["*"]}
        for pattern in ("*", "*.production", PETS)
    }
    made = census(documents)
    made.calls = {CATS: {PETS}, "shop.production": {PETS}}
    (found,) = of_isolation(Facts(census=made))
    assert (found.where, found.what) == (
        f"isolation/{narrow}",
        "cuts off what was seen to be called: shop.production → pets.production",
    )
    documents[f"isolation/{narrow}"]["mode"] = "audit"  # type: ignore[assignment]
    made = msgspec.structs.replace(census(documents), calls=made.calls)
    assert list(of_isolation(Facts(census=made))) == []


def test_refused_documents_break_nothing() -> None:
    """They are told of elsewhere."""
    made = census({"tls/*": {"mtls": "of the next version"}, "isolation/*": {"allow": ["no_pattern"]}}, holds={})
    made.calls = {CATS: {PETS}}
    assert not {found.id for found in findings(Facts(census=made))} & {NOT_READY, "isolated"}
