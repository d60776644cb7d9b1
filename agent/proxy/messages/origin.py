# mypyc: compiled
"""What a request was made for, as whoever makes it hands it on from the request that it answers itself."""

from __future__ import annotations

from agent.proxy.messages.head import RequestHead
from agent.proxy.messages.trace_context import is_sampled, said_by


def origins(request: RequestHead, id: bytes) -> list[bytes]:
    """The request, by its `id` (none when empty), and its trace: what has one of them in common belongs together."""
    found = [b"request " + id] if id else []
    trace = trace_id(request)
    if trace:
        found.append(b"trace " + trace)
    return found


def sampled_trace(request: RequestHead) -> bytes:
    """The trace that a request belongs to, where whoever began it has it kept."""
    value = said_by(request)
    return value[3:35] if value and is_sampled(value) else b""


def trace_id(request: RequestHead) -> bytes:
    """The trace that a request belongs to; empty without a valid one."""
    return said_by(request)[3:35]
