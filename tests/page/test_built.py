"""What is installed of the page is what its sources make, and its sources are sound: types, and tests of what is pure.

`npm` fetches what the lock names into `.cache/page`, once for the same lock.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "agent" / "ui" / "page"
BUILT = ROOT / "agent" / "ui" / "built"
PLACE = ROOT / ".cache" / "page"
LOCK = "package-lock.json"


def npm(*words: str) -> str:
    done = subprocess.run(["npm", *words], cwd=PLACE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"npm {' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def workshop() -> Iterator[Path]:
    """A copy of the sources with what they need beside it."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here: whether agent/ui/built is what agent/ui/page makes is not looked at")
    PLACE.mkdir(parents=True, exist_ok=True)
    with open(PLACE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = (PLACE / LOCK).read_bytes() if (PLACE / "node_modules").exists() and (PLACE / LOCK).exists() else b""
        for each in PLACE.iterdir():
            if each.name not in ("node_modules", "lock"):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        shutil.copytree(SOURCES, PLACE, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        if before != (PLACE / LOCK).read_bytes():
            npm("ci", "--no-audit", "--no-fund", "--prefer-offline")
        yield PLACE


def test_what_is_pure_is_tested_and_types_are_sound(workshop: Path) -> None:
    """TypeScript's and vitest's own word."""
    assert "passed" in npm("run", "check")


def test_it_is_built_from_its_sources(workshop: Path) -> None:
    """Byte for byte: `npm run build` in agent/ui/page after a change, and the result is committed with it."""
    npm("run", "build", "--", "--outDir", str(workshop / "out"))
    made = {each.relative_to(workshop / "out"): each.read_bytes() for each in _files(workshop / "out")}
    there = {each.relative_to(BUILT): each.read_bytes() for each in _files(BUILT)}
    assert sorted(made) == sorted(there)
    assert [str(name) for name in made if made[name] != there[name]] == []


def test_nothing_of_it_is_fetched_from_elsewhere() -> None:
    """No address of another host stands in what is served, but a name of XML's and examples."""
    for each in _files(BUILT):
        if each.suffix in (".html", ".css", ".js"):
            text = each.read_text()
            for scheme in ("http://", "https://"):
                for part in text.split(scheme)[1:]:
                    assert part.startswith(("www.w3.org/", "${", '"', "`", "'", "pets.production")), part[:80]


def _files(folder: Path) -> list[Path]:
    return [each for each in sorted(folder.rglob("*")) if each.is_file()]
