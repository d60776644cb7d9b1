# mypyc: compiled
"""The trace that a request belongs to, as its head says it and as the next hop is told (W3C Trace Context, level 2).

Laws
- What is no traceparent, or stands twice, is none: a trace begins then, and nothing that was said of the one before
  (tracestate) is passed on. Of a future version what this one knows of it is read, and this version is what is said.
- tracestate is one list over all its fields, in their order. Where any of it breaks the rules, all of it is dropped,
  and the trace goes on.
- Of the flags those that are known are passed on: sampled, and that the id is random.
"""

from __future__ import annotations

import re
from binascii import hexlify
from typing import Final

from agent.proxy.messages.head import CONTINUED, REBUILT, TRACEPARENT, TRACESTATE, Field, RequestHead

SAMPLED: Final = 1
RANDOM: Final = 2
MAX_MEMBERS: Final = 32
_LENGTH: Final = 55
_HEX: Final = b"0123456789abcdef"
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16
_ODD: Final = frozenset((b"1", b"3", b"5", b"7", b"9", b"b", b"d", b"f"))
"""Last digits of flags that have SAMPLED."""
_ENDS: Final = (b"-00", b"-01", b"-02", b"-03")
"""By flags."""
_KEY: Final = rb"(?:[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}|[a-z0-9][a-z0-9_\-*/]{0,255})"
_MEMBER: Final = re.compile(_KEY + rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


class TraceContext:
    """What a request's head says of its trace."""

    __slots__ = ("flags", "parent", "plain", "state", "trace")

    def __init__(self, trace: bytes, parent: bytes, flags: int, state: bytes, plain: bool) -> None:
        self.trace = trace
        """32 digits."""
        self.parent = parent
        """16 digits: the span that it was made in."""
        self.flags = flags
        """SAMPLED, RANDOM."""
        self.state = state
        """What goes along; empty: nothing."""
        self.plain = plain
        """Whether its fields may be passed on as they are."""


def read(request: RequestHead) -> TraceContext | None:
    """None: no trace, or none that could be continued."""
    parent: Field | None = None
    states: list[bytes] | None = None
    for field in request.special:
        code = field.code
        if code == TRACEPARENT:
            if parent is not None:
                return None
            parent = field
        elif code == TRACESTATE:
            if states is None:
                states = [field.value]
            else:
                states.append(field.value)
    if parent is None:
        return None
    value = parent.value
    if not is_traceparent(value):
        return None
    flags = int(value[53:55], 16) & (SAMPLED | RANDOM)
    if states is None:
        return TraceContext(value[3:35], value[36:52], flags, b"", True)
    state = list_of(states)
    return TraceContext(value[3:35], value[36:52], flags, state, len(states) == 1 and state == states[0])


def is_traceparent(value: bytes) -> bool:
    """Whether a value is one (section 3.2), of this version or what this one knows of another."""
    size = len(value)
    if size < _LENGTH or (size > _LENGTH and (value[:2] == b"00" or value[_LENGTH : _LENGTH + 1] != b"-")):
        return False
    known = value if size == _LENGTH else value[:_LENGTH]
    if known.translate(None, _HEX) != b"---":
        return False
    if known[2:3] != b"-" or known[35:36] != b"-" or known[52:53] != b"-":
        return False
    return known[:2] != b"ff" and known[3:35] != _NO_TRACE and known[36:52] != _NO_PARENT


def list_of(values: list[bytes]) -> bytes:
    """The members of a tracestate (section 3.3) as one value; empty: there are none, or they break its rules."""
    whole = values[0] if len(values) == 1 else b",".join(values)
    found: list[bytes] = []
    keys: set[bytes] = set()
    for piece in whole.split(b","):
        member = piece.strip(b" \t")
        if not member:
            continue
        if _MEMBER.fullmatch(member) is None:
            return b""
        keys.add(member[: member.index(b"=")])
        found.append(member)
        if len(found) > MAX_MEMBERS or len(keys) < len(found):
            return b""
    return b",".join(found)


def continue_by(request: RequestHead, said: bytes) -> None:
    """From here on each try is told its own span: what stands in the head is told nobody. `said`: a traceparent, by
    which others know the trace."""
    for field in request.special:
        if field.code == TRACEPARENT or field.code == TRACESTATE:
            request.fields = [f for f in request.fields if f.code != TRACEPARENT and f.code != TRACESTATE]
            request.special = [f for f in request.fields if f.code]
            request.wires = [f.wire for f in request.fields if f.code < REBUILT]
            break
    field = Field(b"traceparent", said, b"", CONTINUED)
    request.fields.append(field)
    request.special.append(field)


def said_by(request: RequestHead) -> bytes:
    """The traceparent that a request has, or was given here; empty without a valid one. Most requests have none, and
    few have other fields that mean anything: nothing else is looked through."""
    for field in request.special:
        if field.code == CONTINUED:
            return field.value
        if field.code == TRACEPARENT:
            return field.value if is_traceparent(field.value) else b""
    return b""


def is_sampled(value: bytes) -> bool:
    """Whether a traceparent says that its trace is kept."""
    return value[54:55] in _ODD


def digits(number: int, size: int) -> bytes:
    """An id as it is written: two digits a byte. Requests wait for it, and formatting takes four times as long."""
    return hexlify(number.to_bytes(size, "big"))


def traceparent(trace: bytes, span: bytes, flags: int) -> bytes:
    """The value; of `flags` SAMPLED and RANDOM."""
    return b"00-" + trace + b"-" + span + _ENDS[flags]


def begun(line: bytes) -> tuple[bytes, bytes]:
    """Trace and span of a line that says traceparent, with its name and its end."""
    return line[16:48], line[49:65]


def value_of(line: bytes) -> bytes:
    """What such a line says."""
    return line[13:68]


def digits_of(line: bytes) -> bytes:
    """The last 14 digits of its trace, by which it is drawn."""
    return line[34:48]


def lines(value: bytes, state: bytes) -> bytes:
    """What the next hop is told."""
    if state:
        return b"traceparent: " + value + b"\r\ntracestate: " + state + b"\r\n"
    return b"traceparent: " + value + b"\r\n"
