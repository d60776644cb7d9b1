"""Bundles of Rego and the documents that name them, as the command line judges them before agents do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli import bundles
from agent.cli.documents import Source, read
from agent.cli.failure import Exit, Failure
from agent.cli.main import app

GOOD = {"modules": {"groups.rego": "package groups\nstaff if input.source.service == data.boss"}, "data": {"boss": "a"}}
BROKEN = {"modules": {"groups.rego": "package groups\nstaff if { input. }"}}
LAMPS = {"rego": {"bundles": ["groups"], "modules": {"l.rego": "package shoal\nallow if data.groups.staff"}}}
NOWHERE = ["--etcd", "http://127.0.0.1:1", "--etcd-timeout", "0.5"]


def write(folder: Path, **documents: Any) -> None:
    """Files by name: `lamps` is an authz document of that service, others are bundles."""
    for name, document in documents.items():
        kind = "authz" if "lamps" in name else "rego"
        told = {"kind": kind, "service": name.partition("_")[0], **document}
        (folder / f"{name}.json").write_text(json.dumps(told))


def checked(*argv: str) -> tuple[int, str]:
    """The exit code, and what is said."""
    done = CliRunner().invoke(app, [*NOWHERE, "policy", "check", *argv])
    failed = done.exception
    return (failed.code, failed.message) if isinstance(failed, Failure) else (done.exit_code, done.output)


def test_a_document_is_compiled_with_what_stands_beside_it(tmp_path: Path) -> None:
    """In another file of its directory, or given with it; nobody is asked."""
    write(tmp_path, lamps=LAMPS, groups=GOOD)
    assert checked(str(tmp_path / "lamps.json"))[0] == 0
    assert checked(str(tmp_path / "lamps.json"), str(tmp_path / "groups.json"))[0] == 0


def test_what_is_wrong_in_a_module_is_said_where_it_stands(tmp_path: Path) -> None:
    """In the bundle's file, with the document that it was compiled with; whichever of them is given."""
    write(tmp_path, lamps=LAMPS, groups=BROKEN)
    for given in ("lamps.json", "groups.json"):
        code, said = checked(str(tmp_path / given))
        assert code == 1 and 'groups.json:$.modules["groups.rego"]:2:' in said.replace("\n", ""), said
        assert "lamps.json" in said
    wrong = {"rego": {**LAMPS["rego"], "modules": {"l.rego": "package shoal\nallow if { data.groups. }"}}}
    write(tmp_path, lamps=wrong, groups=GOOD)
    code, said = checked(str(tmp_path / "lamps.json"))
    assert code == 1 and 'lamps.json:$.rego.modules["l.rego"]:2:' in said.replace("\n", "")


def test_what_is_nowhere_is_asked_of_etcd(tmp_path: Path) -> None:
    """And if that cannot be asked, nothing is known."""
    write(tmp_path, lamps=LAMPS)
    code, said = checked(str(tmp_path / "lamps.json"))
    assert code == Exit.UNREACHABLE, said
    assert "names the bundle groups, which stands in no file here or beside it" in said


def test_a_bundle_that_stands_twice_beside_it_is_none(tmp_path: Path) -> None:
    """Nobody could tell which one will count; what is given counts."""
    write(tmp_path, lamps=LAMPS, groups=GOOD)
    (tmp_path / "other.json").write_text((tmp_path / "groups.json").read_text())
    code, said = checked(str(tmp_path / "lamps.json"))
    assert code == 1 and "give the one that counts" in said.replace("\n", " ")
    assert checked(str(tmp_path / "lamps.json"), str(tmp_path / "groups.json"))[0] == 0


def test_others_beside_are_not_asked_for(tmp_path: Path) -> None:
    """A document that nobody gave counts where it names what was given, and all its bundles are there."""
    more = {"rego": {"bundles": ["groups", "elsewhere"], "modules": LAMPS["rego"]["modules"]}}
    write(tmp_path, lamps=more, groups=GOOD)
    assert checked(str(tmp_path / "groups.json"))[0] == 0


@pytest.mark.parametrize(
    "text",
    ["bundles", "bundles: [", "rego: {bundles: groups}", "rego: {bundles: [1]}", "[bundles]", "rego: 5 # bundles"],
)
def test_what_names_none(text: str) -> None:
    """Whatever stands in etcd."""
    assert bundles.named_by(text.encode()) == ()


def test_what_names_a_bundle_is_found_also_where_it_is_refused() -> None:
    """For it may be in force as it was before."""
    named = b'{"rego": {"bundles": ["groups"], "querry": "x"}}'
    watched = b'{"mode": "audit", "rego": {"bundles": ["groups"]}}'
    policies = {("authz", "a"): named, ("authz", "b"): watched, ("authz", "c"): b"{}", ("route", "d"): named}
    assert bundles.users("groups", policies, {("authz", "e"): named}) == [
        "authz/a",
        "authz/b (watched)",
        "audits/authz/e",
    ]
    assert bundles.users("others", policies, {}) == []


def test_a_bundle_that_is_refused_refuses_nothing_else() -> None:
    """The last good one of it stays in force, which agents alone know."""
    texts = {("authz", "lamps"): json.dumps(LAMPS).encode(), ("rego", "groups"): b'{"modules": {"g.rego": 1}}'}
    assert list(bundles.refused(texts, {("rego", "groups")})) == []
    assert list(bundles.refused(texts, {("authz", "lamps")}, {"lamps": texts["authz", "lamps"]})) == []
    del texts["rego", "groups"]
    assert [at.path for _, at in bundles.refused(texts, {("rego", "groups")})] == ["$.rego.bundles[0]"]


def test_what_is_put_is_said_in_its_file_and_what_stands_under_its_key(tmp_path: Path) -> None:
    """As `apply` asks before it puts anything."""
    write(tmp_path, groups=BROKEN)
    sources: list[Source] = read([tmp_path / "groups.json"])[0]
    held = {("authz", "lamps"): json.dumps(LAMPS).encode()}
    (found,) = bundles.problems(held, sources)
    assert (found.place, found.path[:26]) == (str(tmp_path / "groups.json"), '$.modules["groups.rego"]:2')
    assert "policies/authz/lamps" in found.reason
    (gone,) = bundles.problems({**held, ("rego", "groups"): json.dumps(GOOD).encode()}, [], [("rego", "groups")])
    assert (gone.place, gone.path) == ("policies/authz/lamps", "$.rego.bundles[0]")
