# mypyc: compiled
"""Access records: one a request, in a ring while requests are served, and as lines of JSON in between.

Laws
- Where nobody wants records none is made: requests ask `wanted`, and nothing else.
- What a `log` document leaves out is in no record, wherever that goes; what it samples is about sinks. Who follows
  requests sees those that he asked for.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec

from agent.frames import Followed, Records
from agent.proxy.report.following import Follow
from agent.proxy.report.record import Record
from agent.requests.filter import Filter
from policies.kinds.log.decide import REDACTED, Compiled

RING: Final = 65536

MOST_RULES: Final = 4096
MAX_NOTE: Final = 120
"""Of what one policy or try has to say."""
MAX_USER_AGENT: Final = 256
MAX_HEADER: Final = 256
MAX_LINE: Final = 2048
"""Of what is said of a request that could not be understood, in bytes."""

Row: TypeAlias = tuple[Any, ...]
"""When it began (Unix s), inbound, caller, service, endpoint, method, host, target, status, duration (s), bytes in,
bytes out, attempts, request id, why, client's address, protocol, user agent, flag, trace id, until the first byte (s;
negative: none came), queued, connecting and TLS (s), verdicts, tries that failed (None: none), headers, and what a
document says of it (None: nothing). Kept as it was made: with types of its own it would be taken apart and made again
each time that it is passed on."""
_NOTHING: Final[list[str]] = []
_REDACTED: Final = REDACTED.encode()


class Recorder:
    """The ring. When it overflows the newest records are lost, and counted."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether anybody wants records; else nothing is recorded."""
        self.lost = 0
        self._kept = False
        """Whether control writes the records somewhere; else they are for those who follow."""
        self._follows: list[Follow] = []
        self._rows: deque[Row] = deque()
        self.epoch = time.time() - time.monotonic()
        """What makes Unix time of the monotonic clock's."""
        self._rules: dict[str, str] = {}
        self._encode = msgspec.json.Encoder().encode_lines

    def keep(self, kept: bool) -> None:
        """Whether control writes records somewhere."""
        self._kept = kept
        self.wanted = kept or bool(self._follows)

    def follow(self, filters: dict[str, Filter]) -> None:
        """Who follows which requests from now on, by number; those who did go on where they are."""
        known = {follow.id: follow for follow in self._follows}
        self._follows = [known.get(id) or Follow(id, wanted) for id, wanted in filters.items()]
        self.wanted = self._kept or bool(filters)

    def of_rule(self, rule: str) -> str:
        """What is said of a request that took it."""
        found = self._rules.get(rule)
        if found is None:
            if len(self._rules) >= MOST_RULES:  # of documents that are gone
                self._rules.clear()
            found = self._rules[rule] = f"route: {rule}"[:MAX_NOTE]
        return found

    def record(self, row: Row, taken: bool = True) -> None:
        """A request ended. `taken`: no document leaves it out. Called only where it is wanted."""
        for follow in self._follows:
            follow.offer(row)
        if not (taken and self._kept):
            return
        if len(self._rows) >= RING:
            self.lost += 1
        else:
            self._rows.append(row)

    def record_refused(
        self, now: float, inbound: bool, client: str, said: bytes, status: int, why: str, flag: str
    ) -> None:
        """A client was refused before there was a request; `said`: what came of one. Nobody knows of which service it
        would be, so that no document says what of its query is a secret: nothing of that is told."""
        words = said[:MAX_LINE].split(b"\r\n", 1)[0].split(b" ")
        protocol = words[2].decode("latin-1")[:16] if len(words) == 3 else ""
        path, mark, query = (words[1] if len(words) > 1 else b"").partition(b"?")
        target = path + mark + (_REDACTED if query else b"")
        method, began = words[0][:32], self.epoch + now
        before = (
            began,
            inbound,
            "",
            "",
            "",
            method,
            b"",
            target,
            status,
            0.0,
            0,
            0,
            0,
            b"",
            why,
            client,
            protocol,
            b"",
        )
        self.record((*before, flag, b"", -1.0, 0.0, 0.0, 0.0, None, None, None, None))

    def take(self, most: int) -> Records | None:
        """The oldest records, as a frame for control; None when there is none."""
        rows = self._rows
        self.epoch = time.time() - time.monotonic()  # the wall clock may have been set since
        count = min(most, len(rows))
        if not count:
            return None
        return Records(count, self._encode([_chosen(rows.popleft()) for _ in range(count)]))

    def take_followed(self, most: int) -> list[Followed]:
        """The oldest of what somebody follows, up to `most` for each, and how many were lost behind them."""
        found: list[Followed] = []
        for follow in self._follows:
            if follow.rows or follow.lost:
                rows, lost = follow.take(most)
                found.append(Followed(follow.id, len(rows), self._encode([_record(row) for row in rows]), lost))
        return found


def chance_of(id: bytes) -> float:
    """From 0 to 1, the latter not included: the same for the same request or trace on every host."""
    return zlib.crc32(id) / 4294967296.0


def _chosen(row: Row) -> Any:
    """As its service's document wants it."""
    record = _record(row)
    if row[-1] is not None:
        logging = cast(Compiled, row[-1])
        if logging.fields:
            return {name: getattr(record, name) for name in Record.__struct_fields__ if name in logging.fields}
    return record


def _record(row: Row) -> Record:
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
