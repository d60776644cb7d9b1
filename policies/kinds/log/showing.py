# mypyc: compiled
"""What of a live request may be shown to who taps its service, as a `log` document says.

Laws
- What is redacted is not there: where it cannot be told whether a body has such a field (it is cut, encoded, or neither
  JSON nor a form), nothing of that body is shown.
- Nothing is longer than it says: MAX_VALUE of a value, MAX_FIELDS of all of a head, `max_bytes` of a body.
- What is no text is told by its type and length only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from policies.kinds.log.decide import REDACTED, Compiled

MAX_VALUE: Final = 256
"""Of one field's value, in bytes."""
MAX_FIELDS: Final = 16 * 1024
"""Of the names and values of a head, in bytes."""
MAX_MEDIA: Final = 200
CUT: Final = "…"
JSON_ENDS: Final = ("/json", "+json")
FORM: Final = "application/x-www-form-urlencoded"
_REDACTED_BYTES: Final = REDACTED.encode()
_IDENTITY: Final = ("", "identity")
_URLS: Final = frozenset((b"location", b"content-location", b"referer"))
"""Headers whose queries have keys and codes, whoever they are sent to: none of theirs is shown."""
_CONTROLS: Final = frozenset(range(32)) - {9, 10, 13} | {127}


class Body(NamedTuple):
    """Of a body, what may be shown."""

    text: str
    """Empty: nothing of it."""
    size: int
    """Of what came of it, in bytes."""
    cut: bool
    """Whether there was more than the text has."""
    why: str
    """Why there is nothing; empty: there is."""


class Shown:
    """Fields of a head, as many as are shown."""

    __slots__ = ("_room", "fields", "left_out")

    def __init__(self) -> None:
        self._room = MAX_FIELDS
        self.fields: list[tuple[str, str]] = []
        self.left_out = 0
        """So many more for which there was no room."""

    def add(self, rules: Compiled, name: bytes, value: bytes, secret: bool) -> None:
        """One, its name in lower case. `secret`: whatever documents of `log` say, it is none that may be shown."""
        name = name[:MAX_VALUE]
        if secret or rules.hides(name):
            text = REDACTED
        else:
            if name in _URLS:
                value = _without_query(value)
            text = value[:MAX_VALUE].decode("latin-1") + (CUT if len(value) > MAX_VALUE else "")
        size = len(name) + len(text)
        if size > self._room:
            self.left_out += 1
            return
        self._room -= size
        self.fields.append((name.decode("latin-1"), text))


def _without_query(url: bytes) -> bytes:
    place, mark, _ = url.partition(b"?")
    return place + mark + _REDACTED_BYTES if mark else place


def shows(allowed: Sequence[str], media: str) -> bool:
    """Whether bodies of a type are shown."""
    return any(each in ("*", media) or (each[-2:] == "/*" and media.startswith(each[:-1])) for each in allowed)


def media_of(content_type: bytes) -> str:
    """The type alone, in lower case; empty where there is none."""
    return content_type[:MAX_MEDIA].decode("latin-1").partition(";")[0].strip().lower()


def body_of(rules: Compiled, content_type: bytes, encoding: bytes, begins: bytes, size: int) -> Body:
    """Of a body that begins so and has `size` bytes in all; `content_type`, `encoding`: as its head says."""
    if not size:
        return Body("", 0, False, "")
    media, coded = media_of(content_type), encoding[:MAX_MEDIA].decode("latin-1").strip().lower()
    if not shows(rules.tap_bodies, media):
        return Body("", size, True, f"the log document shows no {media or 'body without a type'}")
    if coded not in _IDENTITY:
        return Body("", size, True, f"it is encoded: {coded}")
    cut = size > len(begins)
    if rules.tap_redacts or (media == FORM and rules.form_redacts):
        return _redacted(rules, media, begins, size, cut)
    text = _text(begins, cut)
    if text is None:
        return Body("", size, True, f"no text: {media or 'of no type'}")
    return Body(text, size, cut, "")


def _redacted(rules: Compiled, media: str, begins: bytes, size: int, cut: bool) -> Body:
    if cut:
        return Body("", size, True, f"more than {len(begins)} bytes, so that what is redacted might be missed")
    if media.endswith(JSON_ENDS):
        try:
            said: Any = msgspec.json.decode(begins)
            told = msgspec.json.encode(_without(said, rules)).decode()
        except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError, TypeError):
            return Body("", size, True, "no JSON, so that what is redacted might be missed")
        return Body(told, size, False, "")
    if media == FORM:
        form = _text(rules.form(begins), False)
        if form is not None:
            return Body(form, size, False, "")
    return Body("", size, True, f"{media or 'of no type'}: what is redacted is known in JSON and forms only")


def _without(value: Any, rules: Compiled) -> Any:
    if isinstance(value, dict):
        return {name: REDACTED if rules.redacts_field(name) else _without(each, rules) for name, each in value.items()}
    if isinstance(value, list):
        return [_without(each, rules) for each in value]
    return value


def _text(data: bytes, cut: bool) -> str | None:
    """None: it is none. What is cut may end within a character."""
    for back in range(4 if cut else 1):
        try:
            text = data[: len(data) - back].decode()
        except UnicodeDecodeError:
            continue
        return None if any(ord(each) in _CONTROLS for each in text) else text
    return None
