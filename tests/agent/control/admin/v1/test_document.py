"""The OpenAPI document, and the page of the API: they say what real agents do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from openapi_spec_validator import OpenAPIV31SpecValidator

from agent.control.admin.v1.openapi import WHO
from agent.control.asking.fanout import Why
from agent.control.host.rights import Right
from tests.support.mesh import ROOT, Mesh, until

from .conftest import get


def test_the_document_is_one_of_openapi(mesh: Mesh) -> None:
    """By the validator of the specification; every operation is there, and says what it gives."""
    told = get(mesh.agents[0], "/openapi.json")
    OpenAPIV31SpecValidator(told).validate()
    assert told["openapi"] == "3.1.0"
    operations = [each for path in told["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names)) and {"getMesh", "listCallsOf", "explain"} <= set(names)
    for each in operations:
        schema = each["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema.get("$ref") or schema["items"]["$ref"]


def test_a_real_agent_does_what_the_document_says(mesh: Mesh, tmp_path: Path) -> None:
    """Whatever schemathesis makes of it: statuses, types, headers, what is to be refused and what is not."""
    refusals = '["400", "403", "404", "405", "413", "415", "431", "5xx"]'
    (tmp_path / "schemathesis.toml").write_text(f"[checks.negative_data_rejection]\nexpected-statuses = {refusals}\n")
    url = f"http://127.0.0.1:{mesh.agents[0].admin}/api/v1/openapi.json"
    argv = [sys.executable, "-m", "schemathesis.cli", "run", url, "--checks", "all", "--max-examples", "15"]
    argv += ["--generation-deterministic", "--suppress-health-check", "all", "--no-color"]
    argv += ["--phases", "examples,coverage,fuzzing"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, re.sub(r"(.)\1{40,}", r"\1\1…", done.stdout + done.stderr)[-12000:]
    assert until("ready", mesh.agents[0].ready)


# The page.

PAGE = (ROOT / "docs" / "api.md").read_text()


def test_every_command_of_the_page_works(mesh: Mesh) -> None:
    """As it stands there, but for where the agent is; and what is shown there is what comes."""
    agent = mesh.agents[0]
    commands = re.findall(r"^\$ (curl .*)\n((?:[{ }\]].*\n)*)", PAGE, re.MULTILINE)
    assert len(commands) >= 10
    for command, shown in commands:
        here = command.replace("127.0.0.1:15000", f"{agent.address}:{agent.admin}")
        here = here.replace("/run/shoal/agent.sock", str(agent.socket))
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        told = json.loads(done.stdout)
        assert (told.get("status") == 400) == ("limit=5000" in command), (command, told)
        assert not shown or done.stdout == shown


def test_every_resource_is_on_the_page(mesh: Mesh) -> None:
    """And nothing else."""
    document = get(mesh.agents[0], "/openapi.json")
    there = {
        f"{method.upper()} {path.removeprefix('/api/v1')}" for path, of in document["paths"].items() for method in of
    }
    assert {each.replace("\n", " ") for each in re.findall(r"`((?:GET|POST|PUT|DELETE)\s/[^`]*)`", PAGE)} == there


def test_the_document_says_of_every_right_who_has_it() -> None:
    """But of the one that all have."""
    assert WHO.keys() == set(Right) - {Right.LOOK}


def test_every_why_is_on_the_page() -> None:
    """Why an agent is missing."""
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE)) == {"why", *get_args(Why)}
