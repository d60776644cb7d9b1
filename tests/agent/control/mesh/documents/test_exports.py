"""Which services a host is a gateway of, and so wants certificates of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.control.mesh.documents.exports import taken_in
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.store import Change

SERVICES = ("pets.production", "payments.production", "tools")


def gateway_of(**documents: Any) -> set[str]:
    """By pattern (`_` for a dot, `all` for `*`)."""
    keys, table = Keys(), Table(Keys(), "gate-1")
    changes = [
        Change(keys.policy("export", pattern), json.dumps(document).encode(), 9, 5)
        for pattern, document in documents.items()
    ]
    table.apply(changes, 9)
    return taken_in(table.in_force, table.host, SERVICES)


HERE, THERE = {"to": ["us.shoal"], "gateways": ["gate-1"]}, {"to": ["us.shoal"], "gateways": ["gate-2"]}
FENCE: dict[str, Any] = {"to": ["us.shoal"]}


@pytest.mark.parametrize(
    ("documents", "found"),
    [
        ({}, set()),
        ({"pets.production": HERE}, {"pets.production"}),
        ({"pets.production": THERE}, set()),
        ({"*.production": HERE}, {"pets.production", "payments.production"}),
        ({"*": HERE}, set(SERVICES)),
        ({"*": FENCE}, set()),
        ({"*": FENCE, "pets.production": HERE}, {"pets.production"}),
        ({"*": HERE, "pets.production": FENCE}, set(SERVICES)),
        ({"*": THERE, "pets.production": HERE}, set()),
        ({"*": HERE, "pets.production": {**HERE, "mode": "audit"}}, set(SERVICES)),
        ({"pets.production": {**HERE, "mode": "audit"}}, set()),
        ({"*": HERE, "pets.production": {"to": 7}}, {"payments.production", "tools"}),
    ],
)
def test_by_all_levels(documents: dict[str, Any], found: set[str]) -> None:
    """Each that names gateways has to name it; where nobody knows what one says, it is none."""
    assert gateway_of(**documents) == found
