"""Where documents name claims: every place that may, in documents of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.catalogue import parse
from policies.language.claims import claims_named, names_claim
from policies.language.document import Document

FREE = {"claims": {"tier": "free"}}
STICKY = {"claim": "sub"}


@pytest.mark.parametrize(
    ("kind", "document", "paths"),
    [
        ("route", {"rules": [{}, {"match": FREE}]}, ["$.rules[1].match.claims.tier"]),
        (
            "route",
            {"rules": [{"split": [{}, {"version": "v2"}], "sticky": STICKY}]},
            ["$.rules[0].sticky.claim"],
        ),
        ("route", {"groups": {"pigs": {"claim": "sub", "percent": 5}}}, ["$.groups.pigs.claim"]),
        ("route", {"active": "v1", "standby": "v2", "preview": {"claim": "staff"}}, ["$.preview.claim"]),
        ("balance", {"sticky": STICKY}, ["$.sticky.claim"]),
        ("balance", {"algorithm": "maglev", "hash": [{"path": True}, STICKY]}, ["$.hash[1].claim"]),
        ("ratelimit", {"limits": [{"name": "a", "rate": 1, "key": STICKY, "match": FREE}]},
         ["$.limits[0].key.claim", "$.limits[0].match.claims.tier"]),
        ("shadow", {"copies": [{"to": "dogs", "percent": 5, "sticky": STICKY, "match": FREE}]},
         ["$.copies[0].match.claims.tier", "$.copies[0].sticky.claim"]),
        ("shed", {"concurrency": 1, "priorities": [{"match": FREE, "priority": "high"}]},
         ["$.priorities[0].match.claims.tier"]),
        ("authz", {"rules": [{"allow": "anybody", "not": FREE}], "outbound": True}, ["$.rules[0].not.claims.tier"]),
        ("route", {"rules": [{"match": {"headers": {"x-tier": "free"}}}]}, []),
        ("timeout", {"request": "1s"}, []),
    ],
)  # fmt: skip
def test_claims_are_found_where_they_are(kind: str, document: dict[str, Any], paths: list[str]) -> None:
    """As people write the place."""
    found = parse(kind, "lamps", json.dumps(document).encode())
    assert isinstance(found, Document), found
    assert sorted(claims_named(found)) == sorted(paths) and names_claim(found) is bool(paths)
