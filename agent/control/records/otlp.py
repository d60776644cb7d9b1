"""Records as OTLP logs: messages of `opentelemetry.proto.collector.logs.v1`, written by hand. Pure.

ExportLogsServiceRequest  1 resource_logs
  ResourceLogs            1 resource, 2 scope_logs
    Resource              1 attributes
    ScopeLogs             1 scope (1 name, 2 version), 2 log_records
      LogRecord           1 time, 11 observed time (fixed64, ns), 2 severity, 3 its text, 5 body, 6 attributes
        KeyValue          1 key, 2 value (AnyValue: 1 string)

ExportLogsServiceResponse 1 partial_success (1 rejected_log_records, 2 error_message)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from agent.control.records.reading import Line
from agent.control.records.waiting import KINDS, Kind

INFO, INFO2 = 9, 10
SEVERITIES: Final[dict[Kind, tuple[int, bytes]]] = {
    "access": (INFO, b"INFO"),
    "audit": (INFO2, b"INFO2"),
    "events": (INFO2, b"INFO2"),
    "traces": (INFO, b"INFO"),
}
MAX_VARINT: Final = 10
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_TIME = struct.Struct("<Q").pack


def _written(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_SMALL: Final = [_written(number) for number in range(2048)]
"""Nearly all there are: numbers of fields, and lengths of texts."""


def varint(number: int) -> bytes:
    """Base 128, the lowest bits first."""
    return _SMALL[number] if number < len(_SMALL) else _written(number)


def field(number: int, content: bytes) -> bytes:
    """A message, or text, in another one."""
    return varint(number << 3 | _LEN) + varint(len(content)) + content


def text_attribute(key: str, value: str) -> bytes:
    """A KeyValue."""
    return field(1, key.encode()) + field(2, field(1, value.encode()))


_KIND: Final = {kind: field(6, text_attribute("shoal.kind", kind)) for kind in KINDS}
_SEVERITY: Final = {kind: b"\x10" + varint(number) + field(3, text) for kind, (number, text) in SEVERITIES.items()}


def log_record(line: Line, observed: bytes) -> bytes:
    """`observed`: the field of when it was passed on."""
    return b"\x09%b%b%b%b%b" % (
        _TIME(int(line.at * 1e9)),
        _SEVERITY[line.kind],
        field(5, field(1, line.text)),
        _KIND[line.kind],
        observed,
    )


class Envelope:
    """What is the same in every request of an agent."""

    def __init__(self, resource: Mapping[str, str], version: str) -> None:
        attributes = b"".join(field(1, text_attribute(key, value)) for key, value in resource.items() if value)
        self._resource = field(1, attributes)
        self._scope = field(1, field(1, b"shoal") + field(2, version.encode()))

    def request(self, lines: Iterable[Line], now: float) -> bytes:
        """An ExportLogsServiceRequest."""
        observed = b"\x59" + _TIME(int(now * 1e9))
        records = b"".join(field(2, log_record(line, observed)) for line in lines)
        return field(1, self._resource + field(2, self._scope + records))


class Partial(NamedTuple):
    """What a collector says of a request that it took."""

    rejected: int = 0
    reason: str = ""


def read_response(body: bytes) -> Partial:
    """An ExportLogsServiceResponse; what is none says nothing, since the status has said that it was taken."""
    try:
        for number, inner in _fields(body):
            if number == 1 and isinstance(inner, bytes):
                found = dict(_fields(inner))
                rejected, reason = found.get(1, 0), found.get(2, b"")
                if isinstance(rejected, int) and isinstance(reason, bytes):
                    return Partial(max(0, rejected - (1 << 64) if rejected >> 63 else rejected), _text(reason))
    except ValueError:
        pass
    return Partial()


def _text(content: bytes) -> str:
    return content[:300].decode("utf-8", "replace")


def _fields(message: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Raises ValueError for what is no message."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield key >> 3, value
            continue
        if kind == _LEN:
            size, at = _read_varint(message, at)
        elif kind in (_I64, _I32):
            size = 8 if kind == _I64 else 4
        else:
            raise ValueError(f"no field is of the wire type {kind}")
        if at + size > len(message):
            raise ValueError("it ends within a field")
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index in range(MAX_VARINT):
        if at + index >= len(message):
            break
        byte = message[at + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number & (1 << 64) - 1, at + index + 1
    raise ValueError("no number")
