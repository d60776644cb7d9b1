"""Wheels of this checkout, and fresh environments to install them in, with nothing of the checkout near."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.mesh import ROOT

CONSTRAINTS = ROOT / "constraints.txt"
PATIENCE_S = 900
VERSIONS = ("3.11", "3.12", "3.13")
"""What pyproject.toml promises."""


def environment(**more: str) -> dict[str, str]:
    """Without what would lead to the checkout, or change what is built."""
    ours = ("PYTHON", "SHOAL_", "VIRTUAL_ENV", "CC", "CFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def run(words: Sequence[str | Path], cwd: Path, **more: str) -> str:
    """A command that has to end well; what it printed."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def compiled_wheel() -> Path:
    """The one that setup, the compiled tests and the benchmark have; made now if it is not there yet."""
    done = subprocess.run([ROOT / "scripts/compile", "--wheel"], capture_output=True, text=True, timeout=PATIENCE_S)
    if "needs a C compiler" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def source_archive(folder: Path) -> Path:
    """The sdist."""
    make = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    run([sys.executable, "-c", make], ROOT)
    (made,) = folder.glob("*.tar.gz")
    return made


def wheel_of(source: Path, folder: Path, **more: str) -> Path:
    """What pip makes of an archive, in isolation, as it would anywhere."""
    words = ["-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "--wheel-dir", folder, source]
    run([sys.executable, *words], folder, **more)
    (made,) = folder.glob("*.whl")
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    """Its files, but for what pip wrote of itself."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def install(wheel: Path, python: str, folder: Path) -> Path:
    """A fresh environment with the wheel in it; its bin/."""
    run([python, "-m", "venv", folder], folder.parent)
    words = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", CONSTRAINTS, wheel]
    run([folder / "bin" / "python", *words], folder)
    return folder / "bin"


def interpreter(version: str) -> str:
    """Such a Python on this machine: the one that runs the test, one in PATH, or pyenv's. Skips, and says which is not
    here."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    known = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *map(str, known)):
        if candidate and _is(candidate, version):
            return candidate
    pytest.skip(f"not tested here: Python {version} is not on this machine")


def _is(candidate: str, version: str) -> bool:
    """A shim of pyenv's may be there for a version that is not."""
    ask = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))"
    done = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, env=environment(), timeout=30)
    return re.fullmatch(re.escape(version), done.stdout.strip()) is not None
