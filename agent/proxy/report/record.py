"""A line of the access log, as it is encoded."""

from __future__ import annotations

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
