# mypyc: compiled
"""Attributes of spans, by OpenTelemetry's conventions for HTTP, and what is Shoal's own (`shoal.…`).

Laws
- Cardinality of a name is bounded: it is the method, and the document's template where there is one. The query is told
  nobody: what is in it belongs to people.
- An answer of 5xx is a mistake for both sides, one of 4xx for whoever has called.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from agent.proxy.messages.head import RequestHead
from policies.endpoint import Endpoint

CLIENT: Final = "client"
SERVER: Final = "server"
MAX_TEXT: Final = 1024
Attributes: TypeAlias = dict[str, str | int | bool | list[str]]
_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY")
)


def name(request: RequestHead, template: str) -> str:
    """What a span is called."""
    method = request.method.decode() if request.method in _METHODS else "HTTP"
    return f"{method} {template}" if template else method


def asked(request: RequestHead, path: str, service: str) -> Attributes:
    """What was asked for: `path` as it may be written down, of a service."""
    host, _, port = request.host.decode("latin-1").partition(":")
    found: Attributes = {
        "http.request.method": request.method.decode() if request.method in _METHODS else "_OTHER",
        "url.scheme": "http",
        "url.path": path[:MAX_TEXT],
        "server.address": service or host[:256],
        "server.port": int(port) if port.isdigit() else 80,
        "network.protocol.version": "1.0" if request.http10 else "1.1",
    }
    if request.method not in _METHODS:
        found["http.request.method_original"] = request.method.decode("latin-1")[:64]
    return found


def text(value: bytes) -> str:
    """A header's, as much of it as is told."""
    return value[:MAX_TEXT].decode("latin-1")


def add_endpoint(found: Attributes, endpoint: Endpoint) -> None:
    """Where it went."""
    found["network.peer.address"], found["network.peer.port"] = endpoint.dial
    found["shoal.endpoint"] = endpoint.id
    if endpoint.version:
        found["shoal.version"] = endpoint.version
    if endpoint.zone:
        found["shoal.zone"] = endpoint.zone


def add_outcome(found: Attributes, kind: str, status: int, error: str) -> str:
    """What came of it: a status (0: none), or what went wrong; returns that in a word, empty where nothing did."""
    if status:
        found["http.response.status_code"] = status
        if not error and status >= (500 if kind == SERVER else 400):
            error = str(status)
    if error:
        found["error.type"] = error
    return error
