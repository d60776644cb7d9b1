"""A line of the access log, as it is encoded."""

from __future__ import annotations

from typing import Any

import msgspec


class Record(msgspec.Struct):
    """What is remembered of a request."""

    time: float
    """Of the start, Unix seconds."""
    direction: str
    caller: str
    service: str
    endpoint: str
    method: str
    host: str
    target: str
    status: int
    duration_s: float
    bytes_in: int
    bytes_out: int
    attempts: int
    request_id: str
    why: str
    """What ended it, other than an endpoint's answer."""
    client: str = ""
    """The address of whoever connected."""
    protocol: str = ""
    user_agent: str = ""
    flag: str = ""
    """Whose fault that was (`agent.proxy.messages.flags`); empty: an instance has answered."""
    trace_id: str = ""
    """Of a valid traceparent."""
    first_byte_s: float | None = None
    """Until the head of an instance's answer; None: none came."""
    queue_s: float = 0.0
    """For how long the last try waited for a connection that it might use,"""
    connect_s: float = 0.0
    """how long its own took, if it had to be made, with TLS,"""
    tls_s: float = 0.0
    """and how long TLS took of that."""
    verdicts: list[str] = []
    """What documents said of it: `kind: rule`."""
    failed: list[str] = []
    """Tries that failed: `endpoint: how`."""
    headers: dict[str, str] = {}
    """That a `log` document asks for."""


class Half(msgspec.Struct):
    """A request, or its answer, as those who tap are shown it."""

    headers: list[tuple[str, str]] | None = None
    """As they came; None: not shown, and"""
    no_headers: str = ""
    """why."""
    headers_left_out: int = 0
    """So many more for which there was no room."""
    body: str | None = None
    """Its beginning; None: not shown, and"""
    no_body: str = ""
    """why."""
    body_bytes: int = 0
    """That came of all of it."""
    body_cut: bool = False
    """Whether there was more than is shown."""


class Live(Record):
    """A request that somebody taps."""

    called_as: str = ""
    """How it is known who calls: `proven`, or `said` by another agent; empty: it is not known."""
    decisions: list[dict[str, Any]] | None = None
    """In their order, as explanations have them; None: there was no room to note them."""
    decisions_left_out: int = 0
    request: Half | None = None
    """None: not asked for."""
    answer: Half | None = None
