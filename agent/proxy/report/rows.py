# mypyc: compiled
"""What is known of a request that has ended: a row while requests are served, and the record that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

from agent.proxy.report.record import Record
from policies.kinds.log.decide import Compiled

MAX_HEADER: Final = 256

Row: TypeAlias = tuple[Any, ...]
"""When it began (Unix s), inbound, caller, service, endpoint, method, host, target, status, duration (s), bytes in,
bytes out, attempts, request id, why, client's address, protocol, user agent, flag, trace id, until the first byte (s;
negative: none came), queued, connecting and TLS (s), verdicts, tries that failed (None: none), headers, and what a
document says of it (None: nothing). Kept as it was made: with types of its own it would be taken apart and made again
each time that it is passed on."""
_NOTHING: Final[list[str]] = []


def size_of(row: Row) -> int:
    """What it holds that has no bound but that of a head (bytes): host, target and request id."""
    return len(row[6]) + len(row[7]) + len(row[13])


def record_of(row: Row) -> Record:
    """As it is written, less what a document redacts."""
    (
        began,
        inbound,
        caller,
        service,
        endpoint,
        method,
        host,
        target,
        status,
        duration_s,
        bytes_in,
        bytes_out,
        attempts,
        request_id,
        why,
        client,
        protocol,
        user_agent,
        flag,
        trace,
        first_byte_s,
        queue_s,
        connect_s,
        tls_s,
        verdicts,
        failed,
        headers,
        logging,
    ) = row
    if logging is not None:
        target = cast(Compiled, logging).shown(target)
    return Record(
        began,
        "inbound" if inbound else "outbound",
        caller,
        service,
        endpoint,
        method.decode("latin-1"),
        host.decode("latin-1"),
        target.decode("latin-1"),
        status,
        duration_s,
        bytes_in,
        bytes_out,
        attempts,
        request_id.decode("latin-1"),
        why,
        client,
        protocol,
        user_agent.decode("latin-1"),
        flag,
        trace.decode("latin-1"),
        first_byte_s if first_byte_s >= 0.0 else None,
        queue_s,
        connect_s,
        tls_s,
        verdicts or _NOTHING,
        failed or _NOTHING,
        _as_text(headers) if headers else {},
    )


def _as_text(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """What was sent several times is put together, as in RFC 9110 section 5.3."""
    found: dict[str, str] = {}
    for name, value in headers:
        text, known = value.decode("latin-1"), name.decode("latin-1")
        found[known] = f"{found[known]}, {text}"[:MAX_HEADER] if known in found else text
    return found
