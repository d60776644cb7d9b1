"""`agent.toml` is read. Everything has a default; what is unknown or wrong is refused, with its line.

Laws
- A setting that is not understood is an error, never ignored: a misspelt limit is a limit that is not in force.
- Reading settings does no I/O but reading the file, and asks nothing of the machine but its name, its CPUs and its
  users.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.settings.check import check
from agent.settings.document import Settings
from agent.settings.toml_lines import line_of, steps_of
from policies.language.document import convert
from policies.language.plain import Flaw

_UNKNOWN = re.compile("no field '([^']+)' here")


class SettingsError(Exception):
    """A file that cannot be used; the message has the file, the line, the setting and what would be right."""


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in a file, or the defaults without one. Raises SettingsError.

    SHOAL_ETCD and SHOAL_MESH, which the command line reads too, fill in what the file does not say.
    """
    if path is None:
        return parse("", "the environment", environment)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse(text, str(path), environment)


def parse(text: str, name: str, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in a text; `name` is what messages call it. Raises SettingsError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: {_syntax(str(error))}") from None
    _fill_in(raw, environment or {})
    try:
        settings = convert(raw, Settings)
        check(settings)
    except Flaw as fault:
        unknown = _UNKNOWN.match(fault.reason)
        line = line_of(text, steps_of(fault.path) + ([unknown[1]] if unknown else []))
        raise SettingsError(f"{name}:{line or 1}: {fault.path.removeprefix('$.')}: {fault.reason}") from None
    return settings


def _fill_in(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    if mesh := environment.get("SHOAL_MESH"):
        raw.setdefault("mesh", mesh)
    etcd = raw.setdefault("etcd", {})
    if (urls := environment.get("SHOAL_ETCD")) and isinstance(etcd, dict):
        etcd.setdefault("endpoints", urls.replace(",", " ").split())


def _syntax(message: str) -> str:
    return f"not TOML: {message[:1].lower()}{message[1:]}; see https://toml.io for the form of the file"
