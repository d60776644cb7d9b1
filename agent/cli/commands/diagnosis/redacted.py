"""Takes secrets out of what is handed to others: by the name of the field, and by what a value looks like. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

HIDDEN: Final = "(redacted)"
_NAMES: Final = re.compile(r"pass(word|wd|phrase)|secret|token|authoriz|cookie|credential|api[-_]?key|private", re.I)
_PATH: Final = re.compile(r"(?<=[^/:]/).+$")
"""Behind the host of a URL: for some receivers of webhooks it is the secret."""
_TEXTS: Final = (
    (re.compile(r"(?<=://)[^/@\s\"']*(?=@)"), HIDDEN),
    (re.compile(r"\b(bearer|basic)\s+[^\s\"']+", re.I), rf"\1 {HIDDEN}"),
    (re.compile(r"([?&][^=&\s]*(?:token|secret|key|password|signature)[^=&\s]*=)[^&\s\"']+", re.I), rf"\1{HIDDEN}"),
)


def redacted(value: Any) -> Any:
    """Plain data without secrets. A field whose name says that it has one keeps its shape: what is in it goes."""
    if isinstance(value, dict):
        return {name: _field(str(name), each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    return redacted_text(value) if isinstance(value, str) else value


def redacted_text(text: str) -> str:
    """Without the user and password of URLs, what stands behind Bearer and Basic, and tokens in queries."""
    for pattern, instead in _TEXTS:
        text = pattern.sub(instead, text)
    return text


def _field(name: str, value: Any) -> Any:
    if _NAMES.search(name):
        return _hidden(value)
    if name.lower().endswith("url") and isinstance(value, str):
        return _PATH.sub(HIDDEN, redacted_text(value))
    return redacted(value)


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _hidden(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(each) for each in value]
    return HIDDEN if isinstance(value, str) and value else value
