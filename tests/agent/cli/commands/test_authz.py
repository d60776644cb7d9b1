"""`shoal authz`: edges by the documents in etcd, and by what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.commands.authz import as_dot, edges, read_records
from agent.cli.failure import Failure
from agent.findings.of_mesh.checks import findings
from agent.findings.of_mesh.facts import Facts
from policies.kinds.authz.suggestion import Asked
from registry.census import Census, Policy
from registry.records import Instance, Rejection

LAMPS = "lamps.production"


def census(documents: dict[str, Any], calls: dict[str, set[str]]) -> Census:
    return Census(
        instances={(name, "a"): Instance(address="10.0.0.1", port=1) for name in (LAMPS, "open.production")},
        policies={
            ("authz", key): Policy("authz", key, 5, json.dumps(document).encode())
            for key, document in documents.items()
        },
        calls=calls,
    )


RULES = {
    "rules": [{"name": "shop", "allow": ["shop.production"]}, {"allow": ["*.staff"], "match": {"method": ["GET"]}}]
}


def test_edges() -> None:
    """What is allowed, what is asked for and denied, and what is closed to nobody."""
    found = list(edges(census({LAMPS: RULES}, {"shop.production": {LAMPS}, "web.production": {LAMPS}, "": {LAMPS}})))
    assert [(row["caller"], row["service"], row["may"], row["seen"]) for row in found] == [
        ("shop.production", LAMPS, "all", "seen"),
        ("*.staff", LAMPS, "some", "never"),
        ("anonymous", LAMPS, "none", "seen"),
        ("web.production", LAMPS, "none", "seen"),
        ("anybody", "open.production", "all", "never"),
    ]
    assert found[0]["by"] == [f"authz/{LAMPS}: shop"]
    drawn = list(as_dot(found))
    assert f'  "*.staff" -> "{LAMPS}" [label="some" style="dashed"];' in drawn
    assert f'  "web.production" -> "{LAMPS}" [label="none" style="solid" color="red"];' in drawn


@pytest.mark.parametrize(
    ("document", "rows"),
    [
        # What closes something for anybody allows nobody in particular,
        (
            {"rules": [{"deny": "anybody", "match": {"method": ["PUT"]}}, {"allow": ["shop.production"]}]},
            [("shop.production", "some")],
        ),
        # and who is denied by name leaves whoever else `default` allows.
        ({"rules": [{"deny": "anonymous"}], "default": "allow"}, [("anybody", "some")]),
        ({"rules": [{"deny": ["web.production"]}], "default": "allow"}, [("anybody", "some")]),
        (
            {"rules": [{"allow": ["shop.production"]}, {"deny": ["*.production"]}], "default": "allow"},
            [("shop.production", "all"), ("*.production", "some"), ("anybody", "some")],
        ),
        ({"rules": []}, []),
    ],
)
def test_whoever_is_not_named(document: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    """Has a row of his own where something is open for him, and else none."""
    found = [(row["caller"], row["may"]) for row in edges(census({LAMPS: document}, {})) if row["service"] == LAMPS]
    assert found == rows


def test_what_nobody_can_tell() -> None:
    """A refused document: what was good holds, and etcd's text does not say it. One that is watched does nothing."""
    (row, _) = edges(census({"*.production": {"rulez": []}, LAMPS: RULES}, {}))
    assert (row["may"], row["seen"]) == ("unknown", "unknown")
    assert row["by"] == ["authz/*.production is refused: what was good before holds, if anything was"]
    refused = census({"*.production": {"rulez": []}, LAMPS: RULES}, {})
    revision = refused.policies["authz", "*.production"].revision
    for last_good, said in ((0, "there was none before, and there is none"), (3, "that of revision 3 holds")):
        refused.rejected["authz", "*.production"] = Rejection(
            path="$", reason="no", revision=revision, agent="a", at="", last_good=last_good
        )
        assert next(edges(refused))["by"] == [f"authz/*.production is refused: {said}"]
    assert [row["may"] for row in edges(census({LAMPS: {**RULES, "mode": "audit"}}, {}))] == ["all", "all"]


def test_who_is_denied_everything_is_a_finding() -> None:
    """Of those who were seen to call."""
    made = census({LAMPS: RULES}, {"web.production": {LAMPS}, "a.staff": {LAMPS}, "": {LAMPS}})
    (found,) = (each for each in findings(Facts(census=made)) if each.id == "denied")
    assert found.where == f"authz/{LAMPS}"
    assert f"web.production → {LAMPS}" in found.what and f"somebody unknown → {LAMPS}" in found.what
    assert "a.staff" not in found.what


def test_records(tmp_path: Path) -> None:
    """Those of the service that were served; anything else is counted and passed over, and so is what a `log` document
    has left the caller out of: that is nobody without credentials."""
    log = tmp_path / "access.log"
    line = {"service": LAMPS, "method": "GET", "target": "/x", "status": 200, "caller": "shop.production"}
    others = [{**line, "status": 403}, {**line, "service": "pets"}, {**line, "status": 0}, {"level": "info"}]
    lacking = [{k: v for k, v in line.items() if k != name} for name in ("caller", "method", "target")]
    lacking.append({**line, "method": "CONNECT", "target": "lamps:1"})
    nested = f"{'[' * 5000}\nnot JSON\n"
    log.write_text("".join(f"{json.dumps(each)}\n" for each in [line, line, *others, *lacking]) + nested)
    seen = read_records([log], LAMPS)
    assert seen.asked() == {Asked("shop.production", "GET", "/x"): 2}
    assert (seen.others, seen.lacking) == (6, 4)
    with pytest.raises(Failure, match="No such file"):
        read_records([tmp_path / "none"], LAMPS)


def test_a_call_of_which_there_are_two_records_counts_once(tmp_path: Path) -> None:
    """As the instance's side has it, in whatever order they come; what the caller's side alone has, as that has it."""
    log = tmp_path / "access.log"
    line = {"service": LAMPS, "method": "GET", "status": 200, "caller": "shop.production"}
    there = [{**line, "direction": "inbound", "request_id": name, "target": "/new"} for name in ("a", "b")]
    here = [{**line, "direction": "outbound", "request_id": name, "target": "/old"} for name in ("a", "b", "c", "")]
    for records in ([*there, *here], [*here, *there]):
        log.write_text("".join(f"{json.dumps(each)}\n" for each in records))
        asked = read_records([log], LAMPS).asked()
        assert asked == {Asked("shop.production", "GET", "/new"): 2, Asked("shop.production", "GET", "/old"): 2}


def test_services_of_the_mesh_have_one_name() -> None:
    """Named by id in rules, and by name where they were seen; those of another trust domain stay what they are."""
    ids = ["spiffe://default.shoal/svc/shop.production", "spiffe://us.shoal/svc/web.production"]
    found = census({LAMPS: {"rules": [{"allow": ids}]}}, {"shop.production": {LAMPS}})
    found.trust_domain = "default.shoal"
    rows = {row["caller"]: (row["may"], row["seen"]) for row in edges(found) if row["service"] == LAMPS}
    assert rows == {"shop.production": ("all", "seen"), ids[1]: ("all", "unknown")}
    assert [each.id for each in findings(Facts(census=found)) if each.id == "denied"] == []
    found.trust_domain = ""  # not to be read, or none: then nobody says that it is the same
    assert ("shop.production", "none") in [(row["caller"], row["may"]) for row in edges(found)]
