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
