"""Doors between meshes that lead nowhere, before a caller finds out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.cli.before_put import warnings
from agent.cli.documents import Source
from agent.findings.finding import Finding
from agent.findings.of_mesh.borders import of_exports, of_imports
from agent.findings.of_mesh.checks import findings
from agent.findings.of_mesh.facts import Facts
from registry.records import Instance
from tests.agent.findings.test_guards import NOW, PETS, census, holds

IMPORT = {"trust_domain": "eu.shoal", "remote_service": PETS, "gateways": ["203.0.113.7:15006"]}
EXPORT = {"to": ["us.shoal"], "gateways": ["web-1"]}
BELIEVES = {"identity": {"trust_domain": "x.shoal", "federated": {"eu.shoal": 1, "us.shoal": 1}}}


def found(policies: dict[str, Any], local: dict[str, Any] | None = BELIEVES, **more: Any) -> list[Finding]:
    facts = Facts(census=census(policies, **more), local=local, now=NOW.timestamp())
    return [*of_imports(facts), *of_exports(facts)]


@pytest.mark.parametrize("local", [BELIEVES, None])
def test_doors_that_lead_somewhere(local: dict[str, Any] | None) -> None:
    """Nothing is found; nor where nobody could be asked."""
    assert found({"import/pets.eu": IMPORT, f"export/{PETS}": EXPORT, "export/*": {"to": ["us.shoal"]}}, local) == []


UNBELIEVED: list[tuple[dict[str, Any], str]] = [
    ({"identity": {}}, "nothing can be proven in this mesh yet"),
    ({"identity": {"trust_domain": "x.shoal", "federated": {}}}, "no bundle of eu.shoal is believed here"),
    ({"identity": {"trust_domain": "eu.shoal", "federated": {"us.shoal": 1}}}, "this mesh's own trust domain"),
]


@pytest.mark.parametrize(("local", "said"), UNBELIEVED)
def test_who_is_not_believed(local: dict[str, Any], said: str) -> None:
    """An error for what is imported, since callers get 503; a warning for what is exported."""
    for key, document, severity in (
        ("import/pets.eu", IMPORT, "error"),
        (f"export/{PETS}", {**EXPORT, "to": ["spiffe://eu.shoal/svc/shop"]}, "warning"),
    ):
        (each,) = found({key: document}, local)
        assert (each.id, each.severity, each.where) == ("no-bundle", severity, key)
        assert said in each.what and "shoal trust add eu.shoal" in each.next


def test_instances_under_an_imported_name() -> None:
    """Get no requests; also said before the import is put."""
    both = {("pets.eu", "a"): Instance(address="10.0.0.9", port=1)}
    (each,) = found({"import/pets.eu": IMPORT}, instances=both)
    assert each.id == "import-hides" and "a" in each.what
    source = Source("-", "import", "pets.eu", json.dumps(IMPORT).encode())
    assert [each.id for each in warnings(census({}, instances=both), [source], [])] == ["import-hides"]


@pytest.mark.parametrize(
    ("policies", "more", "said"),
    [
        ({f"export/{PETS}": {**EXPORT, "gateways": ["web-1", "gone"]}}, {}, "no agent lives on its gateway gone"),
        ({f"export/{PETS}": EXPORT}, {"holds": {"web-1": holds()}}, "web-1 holds no certificate of pets.production"),
        ({f"export/{PETS}": EXPORT}, {"holds": {}}, "web-1 holds no certificate of pets.production"),
        ({"export/*.production": EXPORT}, {"holds": {"web-1": holds(PETS)}}, "no certificate of cats.production"),
        ({f"export/{PETS}": EXPORT, "export/*": {**EXPORT, "gateways": ["web-2"]}}, {}, "have none in common"),
    ],
)
def test_gateways_that_take_nobody_in(policies: dict[str, Any], more: dict[str, Any], said: str) -> None:
    """Each says what to do about it."""
    told = [each for each in found(policies, **more) if said in each.what]
    assert told and all(each.id == "no-gateway" and each.next for each in told)


def test_what_leads_to_an_imported_service_leads_somewhere() -> None:
    """It has no instances, and is no mistake; nor are policies of it."""
    policies = {
        "import/pets.eu": IMPORT,
        f"breaker/{PETS}": {"trip": {"consecutive": 5}, "fallback": {"service": "pets.eu"}},
        f"shed/{PETS}": {"concurrency": 5, "instead": [{"service": "pets.eu"}]},
        "outlier/pets.eu": {"consecutive_5xx": 5},
    }
    ids = {each.id for each in findings(Facts(census=census(policies), now=NOW.timestamp()))}
    assert not ids & {"no-such-service", "matches-nothing"}
    del policies["import/pets.eu"]
    ids = {each.id for each in findings(Facts(census=census(policies), now=NOW.timestamp()))}
    assert ids >= {"no-such-service", "matches-nothing"}
