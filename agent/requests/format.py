r"""Access records as lines of text: JSON as they are, the Combined format of web servers, or a template.

    {client} {method} {target} {status} {duration_ms}

Laws
- A template that errs is refused when it is read, with the column; none can err on a record.
- A value ends no field and no line, whatever a caller sent: quotes and backslashes have a backslash before them, and
  what a terminal obeys is an escape. What is not there is `-`.

>>> Format("{method} {target} {status}").lines(b'{"method":"GET","target":"/a\\"b","status":200}\n')
b'GET /a\\"b 200\n'
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, get_args

import msgspec

from agent.visible import visible
from policies.kinds.log.document import Field
from policies.language.document import meant

JSON: Final = "json"
COMBINED: Final = "combined"
TEMPLATES: Final = {
    COMBINED: '{client} - {caller} [{time_common}] "{method} {target} {protocol}" {status} {bytes_out} '
    '"{headers.referer}" "{user_agent}"',
}
"""Formats that have a name; a log document has to ask for the header `referer`."""
MAX_TEMPLATE: Final = 4096
HEADER: Final = "headers."
DERIVED: Final = ("time_common", "time_s", "duration_ms")
"""Beside the fields of a record: its time as web servers write it, and in seconds since 1970; how long it took."""
NAMES: Final = (*get_args(Field), *DERIVED, "headers.NAME")
_PIECES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SPECIAL: Final = str.maketrans({'"': '\\"', "\\": "\\\\"})
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Format:
    """One that is not JSON."""

    def __init__(self, text: str) -> None:
        """`text`: a name of TEMPLATES, or a template. Raises ValueError that says what would be right, and where."""
        template = TEMPLATES.get(text, text)
        if len(template) > MAX_TEMPLATE:
            raise ValueError(f"a template of {len(template)} characters; at most {MAX_TEMPLATE}")
        if "\n" in template or "\r" in template:
            raise ValueError("a record is one line: a template has no line break")
        self._pieces = list(_read(template))
        """Text, and names of fields, in turn."""
        if not any(name for _, name in self._pieces):
            raise ValueError(
                f"{text[:60]!r} names no field: write {JSON}, {COMBINED}, or a template such as {{method}}"
            )

    def lines(self, lines: bytes) -> bytes:
        """Of lines of JSON; what is none stays what it is."""
        return b"".join(self.line(line) + b"\n" for line in lines.split(b"\n") if line)

    def line(self, line: bytes) -> bytes:
        """Of one, without its end."""
        try:
            record = _decode(line)
        except (msgspec.DecodeError, RecursionError):
            return line
        return "".join([text + (_said(record, name) if name else "") for text, name in self._pieces]).encode()


def _read(template: str) -> Any:
    at, text = 0, ""
    for found in _PIECES.finditer(template):
        text += template[at : found.start()]
        at = found.end()
        piece, name = found[0], found[1]
        if piece in ("{{", "}}"):
            text += piece[0]
            continue
        if name is None:
            raise ValueError(
                f"column {found.start() + 1}: a {piece} that belongs to no field; write {piece}{piece} for one"
            )
        header = name.startswith(HEADER) and len(name) > len(HEADER)
        if not header and (name not in NAMES or name == "headers.NAME"):
            raise ValueError(
                f"column {found.start() + 1}: no field {name[:60]!r}{meant(name, NAMES)}; there are: {', '.join(NAMES)}"
            )
        yield text, name.lower() if header else name
        text = ""
    yield text + template[at:], ""


def _said(record: dict[str, Any], name: str) -> str:
    if name.startswith(HEADER):
        found = record.get("headers")
        value: Any = found.get(name.removeprefix(HEADER)) if isinstance(found, dict) else None
    elif name in ("time", "time_common", "time_s"):
        value = _time(record.get("time"), name)
    elif name == "duration_ms":
        took_s = record.get("duration_s")
        value = f"{took_s * 1000:.3f}" if isinstance(took_s, int | float) else None
    else:
        value = record.get(name)
    return _text(value)


def _text(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    elif isinstance(value, dict):
        value = ", ".join(f"{name}: {each}" for name, each in value.items())
    return visible(str(value).translate(_SPECIAL))


def _time(at: Any, name: str) -> str | None:
    if not isinstance(at, int | float):
        return None
    if name == "time_s":
        return f"{at:.6f}"
    second, milli = divmod(int(at * 1000), 1000)
    common, whole = _second(second)
    return common if name == "time_common" else f"{whole}.{milli:03d}Z"


@lru_cache(maxsize=64)
def _second(at: int) -> tuple[str, str]:
    """Records of the same second come together."""
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return "-", "-"
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[moment.month - 1]
    return moment.strftime(f"%d/{month}/%Y:%H:%M:%S +0000"), moment.strftime("%Y-%m-%dT%H:%M:%S")


def format_of(text: str) -> Format | None:
    """As a setting has it; None: JSON, as records are. Raises ValueError."""
    return None if text == JSON else Format(text)
