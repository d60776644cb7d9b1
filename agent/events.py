"""Events: how one is made, and how CloudEvents 1.0 writes it (structured and binary mode of its HTTP binding).

Laws
- What a program said (a check's output, an exception) is data, and never long: beyond MAX_TEXT it is cut with a mark.
- Every event that is made can be written: as JSON, as CloudEvents, in headers.
- The id of an event comes from the etcd revision that caused it, so every agent that sees the revision names it alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from policies.kinds.webhook.event import BY_NAME, COMMON, PREFIX, TYPES, Effect, Event, Type, Value, parts_of, sample

__all__ = [
    "BY_NAME",
    "PREFIX",
    "TYPES",
    "Effect",
    "Event",
    "Type",
    "binary",
    "cut",
    "identify",
    "identify_local",
    "make",
    "sample",
    "structured",
    "to_cloudevent",
]

MAX_TEXT: Final = 4096
"""Characters of one text in an event's data."""
STRUCTURED: Final = "application/cloudevents+json; charset=utf-8"
_PART: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*._:@-]{0,511}\Z")


def identify(cluster: int, revision: int, n: int) -> str:
    """The id of the nth event that a revision caused."""
    return f"{cluster:x}-{revision}-{n}"


def identify_local(boot: str, n: int) -> str:
    """The id of an event that no revision caused: the nth of a run of an agent (`boot` is the run's random id)."""
    return f"{boot}-local-{n}"


def make(
    name: str,
    *,
    id: str,
    time: str,
    mesh: str,
    parts: Mapping[str, str],
    data: Mapping[str, Value] | None = None,
    link: str = "",
) -> Event:
    """An event of a type of the table, with the parts of its subject.

    Raises ValueError for a type, part or field that the table does not have, which is a mistake in the calling code.
    """
    kind = BY_NAME.get(name)
    if kind is None:
        raise ValueError(f"no event type {name!r}")
    if set(parts) != set(parts_of(kind.subject)):
        raise ValueError(f"{name}: {sorted(parts)} are not the parts of {kind.subject}")
    for part, value in parts.items():
        if not _PART.match(value):
            raise ValueError(f"{name}: {value[:80]!r} cannot be the {part} of a subject")
    unknown = sorted(set(data or ()) - {*COMMON, *kind.data})
    if unknown:
        raise ValueError(f"{name}: no data field {unknown}; there are: {', '.join((*COMMON, *kind.data))}")
    subject = kind.subject.format_map(parts)
    return Event(
        id=id,
        type=PREFIX + name,
        subject=subject,
        time=time,
        mesh=mesh,
        key=f"{mesh}/{subject}",
        service=parts.get("service", ""),
        data={field: _writable(value) for field, value in (data or {}).items()},
        link=link,
    )


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """At most so many characters, and a mark that says how many there were."""
    if len(text) <= limit:
        return text
    mark = f"… [cut, {len(text)} characters]"
    return text[: max(0, limit - len(mark))] + mark[:limit]


def _writable(value: Value) -> Value:
    """JSON has no infinities, and UTF-8 no halves of surrogate pairs."""
    if isinstance(value, str):
        return cut(value).encode("utf-8", "replace").decode()
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value


def to_cloudevent(event: Event) -> dict[str, Any]:
    """The JSON event format: attributes, our extensions among them, with the data as an object."""
    return {**_attributes(event), "datacontenttype": "application/json", "data": dict(event.data)}


def structured(event: Event) -> tuple[dict[str, str], bytes]:
    """Structured content mode: headers and body."""
    return {"content-type": STRUCTURED}, msgspec.json.encode(to_cloudevent(event))


def binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Binary content mode: attributes are `ce-` headers, the body is the data."""
    headers = {f"ce-{name}": _header(value) for name, value in _attributes(event).items()}
    return {"content-type": "application/json", **headers}, msgspec.json.encode(event.data)


def _attributes(event: Event) -> dict[str, str]:
    """Only those that are not empty: the specification has no empty attributes."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/shoal/{event.mesh}",
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "mesh": event.mesh,
        "service": event.service,
        "key": event.key,
        "link": event.link,
    }
    return {name: value for name, value in attributes.items() if value}


_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def _header(value: str) -> str:
    """HTTP binding 3.1.3.2: the space, the quote, the percent sign and all but printable ASCII are percent-encoded."""
    return quote(value, safe=_PLAIN)
