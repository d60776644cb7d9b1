# mypyc: interpreted, because it is asked when a process starts
"""What this Shoal was made as: compiled, or interpreted, and why.

Laws
- What is told is what runs: a module is compiled when the file that it is, or would be, loaded from is a library.
- All or nothing. A build of which a part is missing is `mixed`, and its agent does not start.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

COST: Final = "at more than twice the CPU a request"
COMPILED, INTERPRETED, MIXED = "compiled", "interpreted", "mixed"
_HERE: Final = Path(__file__).resolve().parent


@cache
def _made() -> tuple[tuple[str, ...], str]:
    """The modules that were compiled, and else why none was. setup.py writes it into whatever it builds."""
    try:
        told = json.loads((_HERE / "built.json").read_text())
    except FileNotFoundError:
        return (), "a checkout that is not compiled as it stands; scripts/setup does that"
    return tuple(told["compiled"]), str(told["why_not"])


def _is_library(module: str) -> bool:
    loaded: str | None = getattr(sys.modules.get(module), "__file__", None)
    if loaded is not None:
        return loaded.endswith(tuple(EXTENSION_SUFFIXES))
    stem = _HERE.parent / module.replace(".", "/")
    return any(stem.with_name(stem.name + suffix).is_file() for suffix in EXTENSION_SUFFIXES)


def left_out() -> list[str]:
    """Modules that were compiled, and are not there as libraries of this Python."""
    return [module for module in _made()[0] if not _is_library(module)]


def kind() -> str:
    """`compiled`, `interpreted` or `mixed`."""
    if not _made()[0]:
        return INTERPRETED
    return MIXED if left_out() else COMPILED


def reason() -> str:
    """Why it is not compiled; empty when it is."""
    if missing := left_out():
        return f"{missing[0]} is not there as a library of this Python; install Shoal again"
    return _made()[1]


def describe() -> str:
    """For a person: `compiled`, or `interpreted, at …: no working C compiler when it was installed`."""
    return kind() if kind() == COMPILED else f"{kind()}, {COST}: {reason()}"
