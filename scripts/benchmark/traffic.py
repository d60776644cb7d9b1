"""The request that every peer gets, and the answer that every upstream gives.

A browser's or a client library's usual headers, about 600 bytes; the request id and the path vary, so nothing that
remembers whole requests has an advantage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

HOST = "pets.production"
"""The service that small requests are for."""

STREAM_HOST = "films.production"
"""The service that large bodies are for."""

VARIANTS = 512

HEADERS = {
    "Host": HOST,
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "application/json, text/plain;q=0.9, */*;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-GB,en;q=0.7,ar;q=0.3",
    "Authorization": "Bearer 2YotnFZFEjr1zCsicMWpAA.8xLOxBtZp8",
    "Cookie": "session=38afes7a8; theme=dark; consent=yes",
    "X-User-Group": "customers",
    "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}

BODY = b'{"id": 42, "kind": "cat", "name": "Amal", "vaccinated": true, "owner": "house 7", "notes": "asleep"}'
assert len(BODY) == 100

HEALTHY = "/pets/healthy"


def request_id(number: int) -> str:
    """One of many request ids, of the length of a UUID."""
    return f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}"


def path(number: int) -> str:
    """One of many paths."""
    return f"/pets/{number}?fields=name,kind"


def requests() -> Iterator[bytes]:
    """The variants of the request, as they go over the wire."""
    fixed = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    for number in range(VARIANTS):
        head = f"GET {path(number)} HTTP/1.1\r\n{fixed}X-Request-Id: {request_id(number)}\r\n\r\n"
        yield head.encode()


def wrk_script() -> str:
    """The same requests for wrk, in Lua; and its summary as one line of JSON."""
    texts = ",\n".join(json.dumps(text.decode()) for text in requests())
    return f"""local requests = {{
{texts}
}}
local at = 0

request = function()
  at = at % #requests + 1
  return requests[at]
end

done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{{"requests": %d, "duration_us": %d, "failed": %d, "p50_us": %d, "p99_us": %d}}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
