"""What control records of itself: changes with what changed, and no secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.control.audit.security import SecurityRecords
from agent.control.mesh.table import Table
from registry.keys import Keys
from registry.store import Change

KEYS = Keys("default")
Noted = tuple[str, dict[str, Any], dict[str, str]]


class Recorded:
    """A table, and what was recorded of its changes."""

    def __init__(self) -> None:
        self.table = Table(KEYS, "web-1")
        self.noted: list[Noted] = []
        self.records = SecurityRecords(self.table, KEYS, self._note)
        self._revision = 1

    def _note(self, event: str, data: Mapping[str, Any], personal: Mapping[str, str] | None) -> None:
        self.noted.append((event, dict(data), dict(personal or {})))

    def change(self, key: str, value: object, *, whole: bool = False) -> list[Noted]:
        self._revision += 1
        text = value if isinstance(value, bytes | None) else msgspec.json.encode(value)
        changes = [Change(key, text, self._revision)]
        known, before = self.table.revision, self.records.before(changes)
        self.table.apply(changes, self._revision, whole=whole)
        self.noted = []
        self.records.take(changes, before, whole=whole, known=known)
        return self.noted


def test_policies_with_what_changed() -> None:
    """Put, put again, refused and removed; who says that it was him; not what stood there at the start."""
    mesh, key = Recorded(), KEYS.policy("timeout", "pets")
    assert mesh.change(key, {"request": "1s"}, whole=True) == [], "it stood there before"
    ((event, data, personal),) = mesh.change(key, {"request": "2s", "by": "alice", "reason": "slow\nday"})
    assert (event, data["kind"], data["service"]) == ("policy.put", "timeout", "pets")
    assert {"path": "$.request", "before": "1s", "after": "2s"} in data["changed"]
    assert personal == {"person": "alice", "stated_reason": "slow\nday"}
    ((event, data, _),) = mesh.change(key, b"\xff\x00")
    assert (event, bool(data["why"])) == ("policy.refused", True)
    ((event, data, _),) = mesh.change(key, None)
    assert (event, data["changed"][0]["after"]) == ("policy.removed", None)
    ((event, data, _),) = mesh.change(KEYS.audit("timeout", "pets"), {"request": "3s"})
    assert (event, data["watched"]) == ("policy.put", True)


def test_no_secret_is_recorded() -> None:
    """Wherever it stands in a document, whole or changed."""
    mesh = Recorded()
    mesh.change(KEYS.policy("timeout", "pets"), {"request": "1s"}, whole=True)
    hook = {"hooks": {"chat": {"http": {"url": "https://x.example", "headers": {"Authorization": "Bearer hunter2"}}}}}
    told = mesh.change(KEYS.policy("webhook", "*"), hook)
    told += mesh.change(KEYS.policy("webhook", "*"), {"hooks": {"chat": {"token": "hunter2", "url": "https://y"}}})
    told += mesh.change(KEYS.identity("joins", "d" * 64), {"secret": "hunter2", "host": "web-9"})
    assert len(told) == 3
    assert "hunter2" not in repr(told)
    assert told[-1][0] == "identity.invited" and "d" * 64 not in repr(told)


def test_who_may_hold_what() -> None:
    """Grants and revocations, with what was there before; not what a snapshot tells again."""
    mesh = Recorded()
    mesh.change(KEYS.policy("timeout", "pets"), {"request": "1s"}, whole=True)
    ((event, data, _),) = mesh.change(KEYS.identity("grants", "pets"), {"hosts": ["web-1"]})
    assert (event, data["what"], data["whom"]) == ("identity.granted", "grants", "pets")
    assert mesh.change(KEYS.identity("grants", "pets"), {"hosts": ["web-1"]}) == []
    ((event, data, _),) = mesh.change(KEYS.identity("grants", "pets"), None)
    assert (event, data["removed"]) == ("identity.granted", True)
    ((event, _, _),) = mesh.change(KEYS.identity("revocations"), {"revoked": []})
    assert event == "identity.revoked"


def test_a_document_of_thousands_of_fields_is_told_in_part() -> None:
    """Whoever puts it does not fill the log."""
    mesh = Recorded()
    mesh.change(KEYS.policy("timeout", "pets"), {"request": "1s"}, whole=True)
    mesh.change(KEYS.policy("route", "pets"), {"rules": [{"name": f"r{n}"} for n in range(2000)]})
    told = mesh.change(KEYS.policy("route", "pets"), {"rules": [{"name": f"s{n}" * 500} for n in range(2000)]})
    assert len(msgspec.json.encode(told[0][1])) < 40_000
