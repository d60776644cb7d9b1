"""The request path, compiled: scripts/test runs the tests of the proxy and the policies on it once more."""

import os
import runpy
from pathlib import Path

import pytest

import agent.proxy.exchange

ROOT = Path(__file__).parent.parent


def test_what_is_tested_is_what_was_asked_for() -> None:
    """Interpreted from the checkout; or, with SHOAL_COMPILED, the shared library that scripts/compile made."""
    asked = bool(os.environ.get("SHOAL_COMPILED"))
    assert str(agent.proxy.exchange.__file__).endswith(".so" if asked else ".py")


def test_every_module_that_is_compiled_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an editable install compiles nothing."""
    monkeypatch.setattr("setuptools.setup", lambda **options: options["ext_modules"])
    made = runpy.run_path(str(ROOT / "setup.py"))
    assert made["extensions"]() == []
    assert [name for name in made["COMPILED"] if not (ROOT / name).is_file()] == []
