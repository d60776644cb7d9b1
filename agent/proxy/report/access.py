# mypyc: compiled
"""Access records: one a request, in a ring while requests are served, and as lines of JSON in between."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final, TypeAlias

import msgspec

from agent.frames import Records
from agent.proxy.report.record import Record

RING: Final = 65536

MAX_USER_AGENT: Final = 256
MAX_LINE: Final = 2048
"""Of what is said of a request that could not be understood, in bytes."""

Row: TypeAlias = tuple[Any, ...]
"""When it began (Unix s), inbound, caller, service, endpoint, method, host, target, status, duration (s), bytes in,
bytes out, attempts, request id, why, client's address, protocol, user agent. Kept as it was made: with types of its own
it would be taken apart and made again each time that it is passed on."""


class Recorder:
    """The ring. When it overflows the newest records are lost, and counted."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether control writes the records somewhere; else nothing is recorded."""
        self.lost = 0
        self._rows: deque[Row] = deque()
        self.epoch = time.time() - time.monotonic()
        """What makes Unix time of the monotonic clock's."""
        self._encode = msgspec.json.Encoder().encode_lines

    def record(self, row: Row) -> None:
        """A request ended. Called only where it is wanted."""
        if len(self._rows) >= RING:
            self.lost += 1
        else:
            self._rows.append(row)

    def record_refused(self, now: float, inbound: bool, client: str, said: bytes, status: int, why: str) -> None:
        """A client was refused before there was a request; `said`: what came of one."""
        words = said[:MAX_LINE].split(b"\r\n", 1)[0].split(b" ")
        protocol = words[2].decode("latin-1")[:16] if len(words) == 3 else ""
        target = words[1] if len(words) > 1 else b""
        method, began = words[0][:32], self.epoch + now
        self.record(
            (began, inbound, "", "", "", method, b"", target, status, 0.0, 0, 0, 0, b"", why, client, protocol, b"")
        )

    def take(self, most: int) -> Records | None:
        """The oldest records, as a frame for control; None when there is none."""
        rows = self._rows
        self.epoch = time.time() - time.monotonic()  # the wall clock may have been set since
        count = min(most, len(rows))
        if not count:
            return None
        return Records(count, self._encode([_record(rows.popleft()) for _ in range(count)]))


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
    ) = row
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
    )
