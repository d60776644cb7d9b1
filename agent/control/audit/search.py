"""Looks for records in segments, and says what may be missing. Called in threads.

Law: what is not there is told of: spans of time whose records were not kept, lost, or cannot be read. An answer without
such a span is whole.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from agent.audit.questions import Found, Query, Span
from agent.audit.record import LOST, Record

MOST_SPANS: Final = 50
MOST_VALUES: Final = 10_000
"""Different ones that are counted by."""
OTHERS: Final = "…"
_DECODER: Final = msgspec.json.Decoder(Record)
_SOURCE: Final = "source"
_OWN: Final = ("event", "host")


def search(host: str, lines: Iterable[bytes], query: Query, *, room: int) -> Found:
    """The log of a host, all of it, from the oldest line on. `room`: bytes of records that may be told."""
    kept: deque[tuple[int, dict[str, Any]]] = deque()
    counts: Counter[str] = Counter()
    missing: list[Span] = []
    total, size, first, last, expired = 0, 0, True, 0.0, 0
    for text in lines:
        if not text.endswith(b"\n"):
            continue  # it is being written
        try:
            record = _DECODER.decode(text)
        except (msgspec.DecodeError, ValueError):
            _miss(missing, Span(last, last, "a record cannot be read: `shoal audit verify` says more"))
            continue
        if first and record.n > 1 and record.at > query.since:
            _miss(missing, Span(query.since, record.at, "what was recorded before was kept no longer"))
        first, last = False, record.at
        if not query.since <= record.at < query.until:
            continue
        if record.event == LOST and record.data is not None:
            why = f"{record.data.get('count')} records were lost: {record.data.get('reason')}"
            _miss(missing, Span(record.at, record.at, why))
        if not _has_event(record.event, query.events):
            continue
        if record.data is None:
            expired += 1
            continue
        if not _fits(record, query):
            continue
        total += 1
        if query.by:
            value = _value(record, query.by)
            counts[value if value in counts or len(counts) < MOST_VALUES else OTHERS] += 1
            continue
        told = _told(record)
        weight = len(text)
        kept.append((weight, told))
        size += weight
        while size > room or len(kept) > query.most:
            size -= kept.popleft()[0]
    if expired:
        why = f"the content of {expired} records was kept no longer: nobody can say whether they are among these"
        _miss(missing, Span(query.since, query.until, why))
    return Found(host, [told for _, told in kept], dict(counts.most_common(query.most)), total, missing, last)


def _miss(missing: list[Span], span: Span) -> None:
    if len(missing) < MOST_SPANS:
        missing.append(span)


def _has_event(event: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or any(event == name or (name.endswith(".") and event.startswith(name)) for name in wanted)


def _fits(record: Record, query: Query) -> bool:
    data, values = record.data or {}, record.values
    if query.service and data.get("service") != query.service:
        return False
    if query.caller and query.caller not in (data.get("caller"), data.get("principal")):
        return False
    if query.person and values.get("person") != query.person:
        return False
    if query.client and values.get("client") != query.client:
        return False
    return all(values.get(f"claim.{name}") == value for name, value in query.claims.items())


def _value(record: Record, by: str) -> str:
    """Of a field: `source` is who called, as far as it is known, else from where."""
    data, values = record.data or {}, record.values
    if by == _SOURCE:
        return str(data.get("principal") or data.get("caller") or values.get("client") or values.get("person") or "-")
    if by in _OWN:
        return str(getattr(record, by))
    found = values.get(by, data.get(by, values.get(f"claim.{by}")))
    return "-" if found is None or found == "" else str(found)


def _told(record: Record) -> dict[str, Any]:
    frame = {"at": record.at, "host": record.host, "n": record.n, "event": record.event}
    rest = {**(record.data or {}), **record.values}
    erased = sorted(record.personal.keys() - record.values.keys())
    return {
        **frame,
        **{name: rest[name] for name in rest if name not in frame},
        **({"erased": erased} if erased else {}),
    }
