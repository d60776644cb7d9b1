"""`shoal` of a checkout: the wheel of these very sources when it is there, else the checkout; never some of each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh import ROOT

sys.path.append(str(ROOT / "scripts"))
from launch import place

ROOMS = ("agent", "policies", "registry")
PROGRAM = ROOT / "scripts" / "launch.py"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout, and what scripts/compile would have left beside it: here a copy that says where it is from."""
    for name in (*ROOMS, "setup.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    shutil.rmtree(tmp_path / ".cache", ignore_errors=True)
    for bytecode in list(tmp_path.rglob("__pycache__")):
        shutil.rmtree(bytecode)
    wheel = place(tmp_path)
    for room in ROOMS:
        shutil.copytree(tmp_path / room, wheel / room)
    (wheel / "agent" / "built.json").write_text(json.dumps({"compiled": [], "why_not": "it is the wheel"}))
    (wheel / "complete").touch()
    return tmp_path


def version(checkout: Path) -> str:
    """What `.venv/bin/shoal --version` says there."""
    done = subprocess.run(
        [sys.executable, PROGRAM, "--version"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_what_was_not_edited_runs_from_the_wheel(checkout: Path) -> None:
    """Also after its bytecode was written beside it."""
    assert "it is the wheel" in version(checkout)
    (checkout / "agent" / "__pycache__").mkdir(exist_ok=True)
    (checkout / "agent" / "__pycache__" / "x.pyc").touch()
    assert "it is the wheel" in version(checkout)


@pytest.mark.parametrize(
    "name", ["agent/proxy/http1/pool.py", "policies/catalogue.py", "registry/keys.py", "pyproject.toml"]
)
def test_what_is_edited_is_what_runs(checkout: Path, name: str) -> None:
    """One byte anywhere: the checkout, whole; and the wheel again when it is taken back."""
    edited = checkout / name
    before = edited.read_bytes()
    edited.write_bytes(before + b"#\n")
    assert "a checkout that is not compiled as it stands" in version(checkout)
    edited.write_bytes(before)
    assert "it is the wheel" in version(checkout)


def test_new_and_deleted_files_count(checkout: Path) -> None:
    (checkout / "policies" / "new.py").touch()
    assert "a checkout" in version(checkout)
    (checkout / "policies" / "new.py").unlink()
    (checkout / "policies" / "endpoint.py").rename(checkout / "endpoint.py")
    assert place(checkout) != place(ROOT)


def test_a_wheel_that_is_not_complete_is_not_used(checkout: Path) -> None:
    (place(checkout) / "complete").unlink()
    assert "a checkout" in version(checkout)
