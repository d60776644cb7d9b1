"""Which OPAs are told of: those that documents ask about instances of this host, and that are not asked, or in vain."""

from __future__ import annotations

import json
from typing import Any

from agent.control.admin.opas import unasked
from agent.control.mesh.documents.in_force import Policy

LAMPS = "lamps.production"
HERE = "http://127.0.0.1:8181"


def found(
    *told: list[dict[str, Any]], url: str = HERE, services: tuple[str, ...] = (LAMPS,), audit: bool = False
) -> list[dict[str, Any]]:
    text = json.dumps({"rules": [], "opa": {"url": url, "path": "shoal/allow", "timeout": "1s"}}).encode()
    policies = {
        "*.production": Policy(7, text, audit=audit),
        "*": Policy(8, b'{"rules": [{"name": "\\"opa\\"", "allow": "anybody"}]}'),
    }
    return unasked(policies, services, [HERE], told)


def silent(failures: int, reason: str = "it is away") -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": 8181, "reason": reason, "failures": failures}


def test_one_that_answers_is_not_told_of() -> None:
    """Nor one that nobody asks here: no instance of the service is on this host."""
    assert found([], []) == []
    assert found([silent(3)], services=("web.staging",)) == []
    assert found(url="http://127.0.0.1:8282", services=()) == []


def test_one_that_is_not_allowed() -> None:
    """Before anybody has asked; `localhost` is the address that it is."""
    (one,) = found(url="http://127.0.0.1:8282")
    assert (one["document"], one["url"], one["allowed"]) == ("authz/*.production", "http://127.0.0.1:8282", False)
    assert found(url="http://localhost:8181") == []


def test_one_that_does_not_answer() -> None:
    """By whom it failed most, of several workers."""
    (one,) = found([silent(1)], [silent(9, "it is dead")], [], audit=True)
    assert (one["allowed"], one["reason"], one["failures"], one["audit"]) == (True, "it is dead", 9, True)
    assert one["on_failure"] == "deny"
