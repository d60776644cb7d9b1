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
from typing import Any, Final, cast

import msgspec

from agent.frames import Followed, Records
from agent.proxy.report.following import Follow
from agent.proxy.report.record import Record
from agent.proxy.report.ring import Ring
from agent.proxy.report.rows import Row, record_of, size_of
from agent.proxy.report.taps import Tapped, Taps
from agent.requests.filter import Filter
from agent.requests.taps import Wanted
from policies.kinds.log.decide import REDACTED, Compiled

RING: Final = 65536

MOST_RULES: Final = 4096
MAX_NOTE: Final = 120
"""Of what one policy or try has to say."""
MAX_USER_AGENT: Final = 256
MAX_LINE: Final = 2048
"""Of what is said of a request that could not be understood, in bytes."""

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
        self.taps: Taps | None = None
        """Those who want to see live requests; None: nobody."""
        self._rows = Ring(RING, size_of)
        self.epoch = time.time() - time.monotonic()
        """What makes Unix time of the monotonic clock's."""
        self._rules: dict[str, str] = {}
        self._encode = msgspec.json.Encoder().encode_lines

    def keep(self, kept: bool) -> None:
        """Whether control writes records somewhere."""
        self._kept = kept
        self._want()

    def follow(self, filters: dict[str, Filter]) -> None:
        """Who follows which requests from now on, by number; those who did go on where they are."""
        known = {follow.id: follow for follow in self._follows}
        self._follows = [known.get(id) or Follow(id, wanted) for id, wanted in filters.items()]
        self._want()

    def of_rule(self, rule: str) -> str:
        """What is said of a request that took it."""
        found = self._rules.get(rule)
        if found is None:
            if len(self._rules) >= MOST_RULES:  # of documents that are gone
                self._rules.clear()
            found = self._rules[rule] = f"route: {rule}"[:MAX_NOTE]
        return found

    def tap(self, wanted: dict[str, Wanted]) -> None:
        """Who wants to see live requests from now on, by number; those who did go on where they are."""
        if not wanted:
            self.taps = None
        else:
            if self.taps is None:
                self.taps = Taps()
            self.taps.set(wanted)
        self._want()

    def _want(self) -> None:
        self.wanted = self._kept or bool(self._follows) or self.taps is not None

    def record(self, row: Row, now: float, taken: bool = True, tapped: Tapped | None = None) -> None:
        """A request ended. `taken`: no document leaves it out; `tapped`: what was noted of it for those who tap. Called
        only where it is wanted."""
        for follow in self._follows:
            follow.offer(row)
        if self.taps is not None:
            self.taps.offer(row, tapped, now)
        if not (taken and self._kept):
            return
        if not self._rows.add(row):
            self.lost += 1

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
        self.record((*before, flag, b"", -1.0, 0.0, 0.0, 0.0, None, None, None, None), now)

    def take(self, most: int) -> Records | None:
        """The oldest records, as a frame for control; None when there is none."""
        self.epoch = time.time() - time.monotonic()  # the wall clock may have been set since
        rows = self._rows.take(most)
        if not rows:
            return None
        return Records(len(rows), self._encode([_chosen(row) for row in rows]))

    def measure(self) -> None:
        """What waits, of all of them."""
        self._rows.measure()
        for follow in self._follows:
            follow.rows.measure()

    def take_followed(self, most: int) -> list[Followed]:
        """The oldest of what somebody follows, up to `most` for each, and how many were lost behind them."""
        found: list[Followed] = []
        for follow in self._follows:
            if len(follow.rows) or follow.lost:
                rows, lost = follow.take(most)
                found.append(Followed(follow.id, len(rows), self._encode([record_of(row) for row in rows]), lost))
        if self.taps is not None:
            self.taps.take(found)
        return found


def chance_of(id: bytes) -> float:
    """From 0 to 1, the latter not included: the same for the same request or trace on every host."""
    return zlib.crc32(id) / 4294967296.0


def _chosen(row: Row) -> Any:
    """As its service's document wants it."""
    record = record_of(row)
    if row[-1] is not None:
        logging = cast(Compiled, row[-1])
        if logging.fields:
            return {name: getattr(record, name) for name in Record.__struct_fields__ if name in logging.fields}
    return record
