"""Whether what is installed is whole: all that an agent imports, at once or with the first webhook, can be imported."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re
from collections.abc import Iterator
from typing import Final

from agent import build

ROOMS: Final = ("agent", "policies", "registry")
DISTRIBUTION: Final = "shoal-mesh"


def faults() -> list[str]:
    """What is wrong, a line each; empty when it is whole."""
    found: dict[str, str] = {}
    for module, error in _failing():
        found.setdefault(error, module)  # one missing package fails many modules; the first is enough to find it
    wrong = [f"{module} cannot be imported: {error}" for error, module in found.items()]
    wrong += [f"{name} is not installed; Shoal needs it" for name in _missing_requirements()]
    if build.kind() == build.MIXED:
        wrong.append(build.reason())
    return wrong


def _modules() -> Iterator[str]:
    """Every module of Shoal's that is not a program."""
    for room in ROOMS:
        yield room
        paths = getattr(importlib.import_module(room), "__path__", ())
        for module in pkgutil.walk_packages(paths, f"{room}.", onerror=lambda name: None):
            if not module.name.endswith("__main__"):
                yield module.name


def _failing() -> Iterator[tuple[str, str]]:
    for module in _modules():
        try:
            importlib.import_module(module)
        except Exception as error:  # a library may fail in any way, and is told
            yield module, f"{type(error).__name__}: {error}"


def _missing_requirements() -> Iterator[str]:
    """Those that are imported late would be missed only when a webhook or a topic first wants them."""
    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return  # a checkout on the path, not an installation
    for line in wanted:
        name = re.match(r"[\w.-]+", line)
        if name is None or "extra ==" in line:
            continue
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            yield name[0]
