"""What `shoal services` says of each."""

from __future__ import annotations

import json

from agent.cli.commands.overview import _healthy, instance_rows, service_rows
from registry.census import Census, Policy
from registry.records import Health, Instance

EU = {"trust_domain": "eu.shoal", "remote_service": "cats.production", "gateways": ["192.0.2.7:15006"]}


def test_an_imported_service_is_in_another_mesh() -> None:
    """It has no instance here that could be counted; one whose document is of no use, or only watched, has none."""
    documents = {"cats.eu": EU, "dogs.eu": {**EU, "mode": "audit"}, "owls.eu": {"trust_domain": "eu.shoal"}}
    census = Census(
        instances={("pets", "a"): Instance(address="10.0.0.1", port=80)},
        health={("pets", "a"): Health(healthy=True)},
        policies={
            ("import", service): Policy("import", service, 5, json.dumps(document).encode())
            for service, document in documents.items()
        },
    )
    rows = {row["service"]: (row["imported"], row["healthy"], row["instances"]) for row in service_rows(census)}
    assert rows == {"cats.eu": ("in eu.shoal", 0, 0), "dogs.eu": ("", 0, 0), "owls.eu": ("", 0, 0), "pets": ("", 1, 1)}


def test_what_nobody_checks_counts_as_healthy_and_what_is_kept_is_named() -> None:
    """A database that was put by hand serves; of a suspect nothing stands in etcd, unless it is back by now."""
    hand = Instance(address="10.0.0.1", port=80)
    census = Census(instances={("db", "a"): hand, ("db", "b"): hand}, health={("db", "b"): Health(healthy=False)})
    suspected = [{"service": service, "id": "a", "state": "suspect"} for service in ("db", "shop")]
    rows = {row["service"]: row for row in service_rows(census, suspected)}
    assert [(row["healthy"], row["instances"], row["suspects"]) for row in rows.values()] == [(1, 2, 0), (0, 0, 1)]
    assert [_healthy(row) for row in rows.values()] == ["1/2", "0/0, 1 suspect"]
    shown = [(row["service"], row["id"], row["state"]) for row in instance_rows(census, suspected)]
    assert shown == [("db", "a", "unchecked"), ("db", "b", "unhealthy"), ("shop", "a", "suspect")]
