"""An installation that is not whole says so, and what is missing, before it is relied on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.build import COST
from agent.cli.failure import Exit
from agent.installation import faults
from tests.support.mesh import ROOT

ROOMS = ("agent", "policies", "registry")
PROGRAM = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
from agent.cli.main import main
main()
"""
"""`shoal`; an editable installation of the checkout would lend what a broken one lacks."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of every package, which a test may break."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def shoal(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def built(installed: Path, **told: object) -> None:
    (installed / "agent" / "built.json").write_text(json.dumps({"compiled": [], "why_not": "", **told}))


def test_what_runs_the_tests_is_whole() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("agent/topics", "No module named 'agent.topics'"),
        ("agent/proxy/http1/client.py", "No module named 'agent.proxy.http1.client'"),
        ("policies/catalogue.py", "No module named 'policies.catalogue'"),
        ("registry/lease.py", "No module named 'registry.lease'"),
    ],
)
def test_a_module_that_is_not_there_is_told(installed: Path, gone: str, told: str) -> None:
    """Of control, of a worker, of a policy, of the registry: by name, in one line, and the exit code is no."""
    path = installed / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    answer = shoal(installed, "agent", "--check")
    assert answer.returncode == Exit.USAGE and answer.stdout == ""
    assert answer.stderr.startswith("shoal: this installation is broken: ") and told in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_module_that_does_not_load_is_told(installed: Path) -> None:
    """Such as a library that was made for another machine."""
    (installed / "agent/topics/pulsar.py").write_text("raise OSError('wrong ELF class')\n")
    assert (
        "agent.topics.pulsar cannot be imported: OSError: wrong ELF class"
        in shoal(installed, "agent", "--check").stderr
    )


def test_a_requirement_that_is_first_needed_late_is_told(installed: Path) -> None:
    """A template of a webhook, a month later, is no moment to hear that Jinja is missing."""
    about = installed / "shoal_mesh-0.1.0.dist-info"
    about.mkdir()
    wants = "Requires-Dist: no-such-thing>=1\nRequires-Dist: trio\nRequires-Dist: nor-this; extra == 'dev'\n"
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: shoal-mesh\nVersion: 0.1.0\n{wants}")
    told = shoal(installed, "agent", "--check").stderr
    assert told == "shoal: this installation is broken: no-such-thing is not installed; Shoal needs it\n"


def test_a_part_that_was_compiled_and_is_not_there_stops_the_agent(installed: Path) -> None:
    """Half compiled is neither what was measured nor what was tested: told by each command that could tell."""
    built(installed, compiled=["agent.proxy.http1.pool"])
    wrong = "agent.proxy.http1.pool is not there as a library of this Python; install Shoal again"
    assert shoal(installed, "--version").stdout == f"shoal 0.1.0 (mixed, {COST}: {wrong})\n"
    for words in (["agent"], ["agent", "--check"]):
        answer = shoal(installed, *words)
        assert (answer.returncode, answer.stderr) == (Exit.USAGE, f"shoal: this installation is broken: {wrong}\n")


def test_why_it_is_interpreted_is_told_as_it_was_built(installed: Path) -> None:
    built(installed, why_not="no working C compiler when it was installed")
    assert shoal(installed, "--version").stdout == (
        f"shoal 0.1.0 (interpreted, {COST}: no working C compiler when it was installed)\n"
    )
