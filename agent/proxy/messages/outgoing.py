# mypyc: compiled
"""What the next hop is sent of a request's head: its judged lines, as its route wants them, and what the mesh says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages.head import (
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HOST,
    MAX_FORWARDS,
    REBUILT,
    REQUEST_ID,
    VIA,
    Field,
    RequestHead,
)
from policies.decision import Edits, Forward
from policies.endpoint import Endpoint

_COMMENT: Final = re.compile(rb"\([^()]*\)")
_OURS: Final = re.compile(rb"(?:\A|,)[ \t]*[^ \t,]+[ \t]+shoal[ \t]*(?=,|\Z)")


def target_of(request: RequestHead, forward: Forward | None) -> bytes:
    """What is asked for, as its route wants it."""
    if forward is not None and forward.target is not None:
        return forward.target.encode("latin-1")
    return request.target


def own_lines(
    request: RequestHead,
    endpoint: Endpoint,
    *,
    trail: bytes,
    request_id: bytes,
    caller: str,
    client: str,
    attempt: int,
    left_s: float,
    by_policy: bool = False,
) -> list[bytes]:
    """What the mesh says of a request, for one attempt; `attempt` counts from 1. `trail` is what `trail` makes,
    `client` the address that is vouched for (empty: none), which only an agent is told, `left_s` how long the answer is
    waited for (INFINITY: for ever); `by_policy`: not by the client's wish, which only an agent is told."""
    lines = [trail]
    if request.special_value(REQUEST_ID) is None:
        lines.append(b"x-request-id: " + request_id + b"\r\n")
    if left_s != INFINITY:
        lines.append(b"x-shoal-deadline: %d\r\n" % max(1, int(left_s * 1000)))
    if endpoint.expected:
        pass  # another mesh is told of this one what was proven to it, and no more
    elif endpoint.via:
        lines.append(_addressed_to(endpoint, caller))
        if by_policy and left_s != INFINITY:
            lines.append(b"x-shoal-deadline-by: policy\r\n")
        if client:
            lines.append(b"x-shoal-client: %b\r\n" % client.encode("ascii", "replace"))
    elif caller:
        lines.append(b"x-shoal-caller: %b\r\n" % caller.encode())
    if attempt > 1:
        lines.append(b"x-shoal-attempt: %d\r\n" % attempt)
    return lines


def request_fields(request: RequestHead, forward: Forward | None, remote: str = "") -> list[bytes]:
    """The lines of its end-to-end fields, as its route wants them. Not to be changed: they may be the request's.
    `remote`: what the service is called where it is asked for, in another mesh; that is what Host says there."""
    connection = request.connection
    fields = request.wires
    if connection:
        fields = [f.wire for f in request.fields if f.code < REBUILT and (f.code > 0 or f.name not in connection)]
    if forward is None and not remote:
        return fields
    host = b"" if forward is None or forward.host is None else forward.host.encode("latin-1")
    if remote:
        host = remote.encode()
    if host:
        fields = [f.wire for f in request.fields if f.code < REBUILT and f.code != HOST and f.name not in connection]
        fields.insert(0, b"host: %b\r\n" % host)
    if forward is not None and forward.request_headers is not None:
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


def hops(via: bytes) -> int:
    """How many agents a Via field names: not who has `shoal` in a name or a comment (RFC 9110 section 7.6.3)."""
    return 0 if via.find(b"shoal") < 0 else len(_OURS.findall(_COMMENT.sub(b"", via)))


def count_forward(request: RequestHead) -> None:
    """One less may hand it on (RFC 9110 section 7.6.2)."""
    request.max_forwards -= 1
    left = b"%d" % request.max_forwards
    fewer = Field(b"max-forwards", left, b"Max-Forwards: %b\r\n" % left, MAX_FORWARDS)
    request.fields = [fewer if f.code == MAX_FORWARDS else f for f in request.fields]
    request.special = [f for f in request.fields if f.code]
    request.wires = [f.wire for f in request.fields if f.code < REBUILT]


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
    ours = b"1.0 shoal" if request is not None and request.http10 else b"1.1 shoal"
    lines = [b"via: %b\r\n" % b", ".join([*by_code[VIA], ours])]
    if forwarded:
        lines.append(b"x-forwarded-for: %b\r\n" % b", ".join(forwarded))
    if proto:
        lines.append(b"x-forwarded-proto: %b\r\n" % proto[-1])
    return b"".join(lines)
