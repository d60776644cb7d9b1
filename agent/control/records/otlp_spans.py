"""Spans as OTLP traces: messages of `opentelemetry.proto.collector.trace.v1`, written by hand. Pure.

ExportTraceServiceRequest  1 resource_spans (one a service: what has a service's name is a resource)
  ResourceSpans            1 resource, 2 scope_spans
    ScopeSpans             1 scope (1 name, 2 version), 2 spans
      Span                 1 trace id, 2 span id, 3 tracestate, 4 parent's span id, 5 name, 6 kind, 7 start, 8 end
                           (fixed64, ns), 9 attributes, 13 links, 15 status, 16 flags (fixed32)
        KeyValue           1 key, 2 value (AnyValue: 1 string, 2 bool, 3 int, 5 array (1 values))
        Link               1 trace id, 2 span id
        Status             3 code

An ExportTraceServiceResponse is one of logs, with other names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from agent.carried import Span
from agent.control.records.otlp import field, text_attribute, varint
from agent.control.records.reading import Line

_KINDS: Final = {"server": b"\x30\x02", "client": b"\x30\x03"}
_INTERNAL: Final = b"\x30\x01"
_ERROR: Final = field(15, b"\x18\x02")
_KNOWS_REMOTE, _REMOTE = 0x100, 0x200
"""Of the flags: whether the parent is of another process is known, and is so."""
_LATEST_S: Final = 9e9
_TIMES: Final = struct.Struct("<cQcQ").pack
_FLAGS: Final = struct.Struct("<I").pack
_decode: Final = msgspec.json.Decoder(Span).decode


def read_span(text: bytes) -> Span | None:
    """A line; None for what is no span."""
    try:
        found = _decode(text)
        ids = [found.trace_id, found.span_id, found.parent_id]
        for each in found.links:
            ids += [each.trace_id, each.span_id]
        bytes.fromhex("".join(ids))
    except (msgspec.DecodeError, ValueError):
        return None
    return found if 0 <= found.time < _LATEST_S and 0 <= found.duration_s < _LATEST_S else None


def span(of: Span) -> bytes:
    """What was read, as a message."""
    start = int(of.time * 1e9)
    parts = [
        field(1, bytes.fromhex(of.trace_id)),
        field(2, bytes.fromhex(of.span_id)),
        field(3, of.state.encode()) if of.state else b"",
        field(4, bytes.fromhex(of.parent_id)) if of.parent_id else b"",
        field(5, of.name.encode()),
        _KINDS.get(of.kind, _INTERNAL),
        _TIMES(b"\x39", start, b"\x41", start + int(of.duration_s * 1e9)),
        *[_attribute(key, value) for key, value in of.attributes.items()],
        *[field(13, field(1, bytes.fromhex(one.trace_id)) + field(2, bytes.fromhex(one.span_id))) for one in of.links],
        _ERROR if of.error else b"",
        b"\x85\x01" + _FLAGS(of.flags & 0xFF | _KNOWS_REMOTE | (_REMOTE if of.remote else 0)),
    ]
    return b"".join(parts)


def _attribute(key: str, value: str | int | bool | list[str]) -> bytes:
    if isinstance(value, str):
        return _text(key, value)
    if isinstance(value, bool):
        return _of(key, b"\x10" + (b"\x01" if value else b"\x00"))
    if isinstance(value, int):
        return _number(key, value)
    return _of(key, field(5, b"".join(field(1, field(1, each.encode())) for each in value)))


def _of(key: str, said: bytes) -> bytes:
    return field(9, field(1, key.encode()) + field(2, said))


# Most of what is said is said of many spans.


@lru_cache(maxsize=4096)
def _text(key: str, value: str) -> bytes:
    return field(9, text_attribute(key, value))


@lru_cache(maxsize=1024)
def _number(key: str, value: int) -> bytes:
    return _of(key, b"\x18" + varint(value & (1 << 64) - 1))


class SpanEnvelope:
    """What is the same in every request of an agent."""

    def __init__(self, resource: Mapping[str, str], version: str) -> None:
        """`resource`: of the host; whose a span is, it says itself."""
        self._resource = b"".join(
            field(1, text_attribute(key, value)) for key, value in resource.items() if value and key != "service.name"
        )
        self._scope = field(1, field(1, b"shoal") + field(2, version.encode()))

    def request(self, lines: Iterable[Line]) -> tuple[bytes, int]:
        """An ExportTraceServiceRequest, and how many lines are left out of it since they are no spans."""
        found: dict[str, list[bytes]] = {}
        odd = 0
        for line in lines:
            read = read_span(line.text)
            if read is None:
                odd += 1
            else:
                found.setdefault(read.service, []).append(field(2, span(read)))
        return b"".join(field(1, self._of(service, spans)) for service, spans in found.items()), odd

    def _of(self, service: str, spans: list[bytes]) -> bytes:
        resource = field(1, text_attribute("service.name", service)) + self._resource
        return field(1, resource) + field(2, self._scope + b"".join(spans))
