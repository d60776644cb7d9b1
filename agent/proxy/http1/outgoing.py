# mypyc: compiled
"""What the next hop is sent: a request's head, re-serialised from its judged form, with what the mesh says of it."""

from __future__ import annotations

from collections.abc import Sequence

from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages.head import (
    CHUNKED,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HOST,
    REBUILT,
    REQUEST_ID,
    VIA,
    RequestHead,
)
from policies.decision import Edits, Forward
from policies.endpoint import Endpoint


def request_head(
    request: RequestHead,
    forward: Forward | None,
    endpoint: Endpoint,
    *,
    trail: bytes,
    request_id: bytes,
    caller: str,
    attempt: int,
    left_s: float,
) -> list[bytes]:
    """The lines of a request's head, for one attempt; `attempt` counts from 1. `trail` is what `trail` makes, `left_s`
    how long the answer is waited for (INFINITY: for ever)."""
    target = request.target
    if forward is not None and forward.target is not None:
        target = forward.target.encode("latin-1")
    lines = [request.method, b" ", target, b" HTTP/1.1\r\n"]
    lines += request_fields(request, forward)
    lines.append(trail)
    if request.special_value(REQUEST_ID) is None:
        lines += (b"x-request-id: ", request_id, b"\r\n")
    if request.framing == CHUNKED:
        lines.append(b"transfer-encoding: chunked\r\n")
    if request.upgrade:
        lines.append(b"connection: upgrade\r\nupgrade: %b\r\n" % request.upgrade)
    if left_s != INFINITY:
        lines.append(b"x-shoal-deadline: %d\r\n" % max(1, int(left_s * 1000)))
    if endpoint.via:
        lines.append(_addressed_to(endpoint, caller))
    elif caller:
        lines.append(b"x-shoal-caller: %b\r\n" % caller.encode())
    if attempt > 1:
        lines.append(b"x-shoal-attempt: %d\r\n" % attempt)
    lines.append(b"\r\n")
    return lines


def marked_as_copy(lines: Sequence[bytes], role: str, timeout_s: float) -> list[bytes]:
    """The lines of a request's head as those of a copy: with a mark, and its own time."""
    kept = [line for line in lines[:-1] if not line.startswith(b"x-shoal-deadline:")]
    kept.append(b"x-shoal-shadow: %b\r\nx-shoal-deadline: %d\r\n\r\n" % (role.encode(), max(1, int(timeout_s * 1000))))
    return kept


def request_fields(request: RequestHead, forward: Forward | None) -> list[bytes]:
    """The end-to-end fields of a request, as its route wants them."""
    connection = request.connection
    fields = request.wires
    if connection:
        fields = [f.wire for f in request.fields if f.code < REBUILT and (f.code or f.name not in connection)]
    if forward is None:
        return fields
    if forward.host is not None:
        host = forward.host.encode("latin-1")
        fields = [f.wire for f in request.fields if f.code < REBUILT and f.code != HOST and f.name not in connection]
        fields.insert(0, b"host: %b\r\n" % host)
    if forward.request_headers is not None:
        fields = edited(fields, forward.request_headers)
    return fields


def edited(fields: Sequence[bytes], edits: Edits) -> list[bytes]:
    """Header lines after a route's edits: removed, then set (replacing), then added."""
    gone = {name.encode() for name in edits.remove} | {name.lower().encode() for name, _ in edits.set}
    kept = [line for line in fields if line.partition(b":")[0].lower() not in gone]
    kept += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in (*edits.set, *edits.add)]
    return kept


def _addressed_to(endpoint: Endpoint, caller: str) -> bytes:
    """What the owning agent's inbound listener needs: which of its instances is meant, and who is calling."""
    line = b"x-shoal-endpoint: %b/%b\r\n" % (endpoint.service.encode(), endpoint.id.encode())
    return line + b"x-shoal-caller: %b\r\n" % caller.encode() if caller else line


def trail(request: RequestHead | None, peer: str, *, inbound: bool) -> bytes:
    """Via, X-Forwarded-For and X-Forwarded-Proto for the next hop; of a request without any, when None.

    The peer of an inbound hop is an agent, and no link of the chain that services see.
    """
    by_code: dict[int, list[bytes]] = {VIA: [], FORWARDED_FOR: [], FORWARDED_PROTO: []}
    for field in request.special if request is not None else ():
        if field.code in by_code:
            by_code[field.code].append(field.value)
    forwarded, proto = by_code[FORWARDED_FOR], by_code[FORWARDED_PROTO]
    if not inbound:
        forwarded = [*forwarded, peer.encode()]
        proto = proto or [b"http"]
    lines = [b"via: %b\r\n" % b", ".join([*by_code[VIA], b"1.1 shoal"])]
    if forwarded:
        lines.append(b"x-forwarded-for: %b\r\n" % b", ".join(forwarded))
    if proto:
        lines.append(b"x-forwarded-proto: %b\r\n" % proto[-1])
    return b"".join(lines)
