"""What CONTRIBUTING promises: a kind is four files and a line. A copy of the tree gets one, and has it everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "tests/support/badge"
PLACES = {
    "document.py": "policies/kinds/badge/document.py",
    "decide.py": "policies/kinds/badge/decide.py",
    "test_badge.py": "tests/policies/kinds/badge/test_badge.py",
    "badge.md": "docs/policies/badge.md",
}
LINE = '    Kind("badge", "who is let in", Side.{side}, fails_closed=True),\n'
ROW = "| `badge` | who is let in | [badge](badge.md) |\n"
CHECKS = ("tests/policies/test_pages.py", "tests/policies/test_catalogue.py", "tests/test_layering.py")


@pytest.fixture(params=["CALLER", "CALLEE"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy with the kind in it, asked beside the caller or beside the instance."""
    copy = tmp_path / "shoal"
    for name in ("agent", "policies", "registry", "tests", "docs", "scripts", "deploy"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, copy / name)
    for part, place in PLACES.items():
        (copy / place).parent.mkdir(exist_ok=True)
        shutil.copy(PARTS / f"{part}.txt", copy / place)
    (copy / "policies/kinds/badge/__init__.py").touch()
    insert(copy / "policies/catalogue.py", '    Kind("ratelimit"', LINE.format(side=request.param))
    insert(copy / "docs/policies/README.md", "| `ratelimit` |", ROW)
    shutil.copy(PARTS / "test_mesh.py.txt", copy / "tests/system/test_badge.py")
    return copy


def insert(path: Path, before: str, line: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, line + before))


def test_a_kind_is_four_files_and_a_line(tree: Path) -> None:
    """Its own tests, those of pages, catalogue and rooms, and real agents find it; nothing else was touched."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CHECKS, PLACES["test_badge.py"]]
    done = subprocess.run(
        [*command, "tests/system/test_badge.py"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
