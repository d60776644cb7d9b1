"""What `shoal services` says of each."""

from __future__ import annotations

import json

from agent.cli.census import Census, Policy
from agent.cli.commands.overview import service_rows
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
