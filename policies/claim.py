# mypyc: interpreted, because its texts are a kind of str
"""What a claim is to whoever asks for it: a text, and whether its token has it so.

Law: a text is itself. All else is its JSON, without spaces: `true`, `7`, `["staff","dev"]`.
"""

from __future__ import annotations

import json
from typing import Any


class Json(str):
    """The JSON of a claim that is no text."""

    __slots__ = ()


def said(value: Any) -> str:
    """As conditions see it."""
    return value if isinstance(value, str) else Json(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def as_text(value: Any) -> str:
    """The text alone, for encoders to which a kind of text is none: msgspec's `enc_hook`. Raises TypeError for what is
    no text."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")


def is_the_same(one: str | None, other: str) -> bool:
    """Whether two claims are: a text that reads like a list is none."""
    return one == other and isinstance(one, Json) == isinstance(other, Json)


def supposed(text: str) -> str:
    """A claim as somebody writes it who asks what would be: what reads like a list or an object is one."""
    if text[:1] in ("[", "{"):
        try:
            return said(json.loads(text))
        except (ValueError, RecursionError):
            return text
    return text
