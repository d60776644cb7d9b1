# mypyc: compiled
"""What a request was made for, as whoever makes it hands it on from the request that it answers itself."""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.head import RequestHead

_NO_TRACE: Final = b"0" * 32
_HEX: Final = frozenset(b"0123456789abcdef")
_ODD: Final = b"13579bdf"
_NAME_BYTES: Final = 11
"""Of `traceparent`: most names are told apart by their length."""


def origins(request: RequestHead, id: bytes) -> list[bytes]:
    """The request, by its `id` (none when empty), and its trace: what has one of them in common belongs together."""
    found = [b"request " + id] if id else []
    trace = trace_id(request)
    if trace:
        found.append(b"trace " + trace)
    return found


def sampled_trace(request: RequestHead) -> bytes:
    """The trace that a request belongs to, where whoever began it has it kept (section 3.2.2.5.1: the sampled flag)."""
    for field in request.fields:
        if len(field.name) == _NAME_BYTES and field.name == b"traceparent":
            flags = field.value[53:55]
            kept = len(flags) == 2 and _HEX.issuperset(flags) and flags[1] in _ODD
            return trace_id(request) if kept else b""
    return b""


def trace_id(request: RequestHead) -> bytes:
    """The trace that a request belongs to (`traceparent`, W3C Trace Context section 3.2); empty without a valid one."""
    for field in request.fields:
        if field.name == b"traceparent":
            value = field.value
            trace = value[3:35]
            whole = len(value) == 55 if value[:2] == b"00" else len(value) >= 55 and value[:2] != b"ff"
            if whole and value[2:3] == value[35:36] == b"-" and trace != _NO_TRACE and _HEX.issuperset(trace):
                return trace
            return b""
    return b""
