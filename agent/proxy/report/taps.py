# mypyc: compiled
"""Live requests that somebody taps: what is noted of each while it is under way, and the lines that are made of it.

Laws
- Where nobody taps there is no `Taps`, and requests ask for no more than that.
- MOST_UNDER_WAY are noted at a time, and PER_S begin to be, and are told, in a second; RING_BYTES of lines wait to be
  handed over. Beyond it requests are told without what was not noted, or counted (`lost`). None of them waits.
- Noted is a bounded part, by copy: nothing of a body is held back, and no head outlives its request.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final

import msgspec

from agent.frames import Followed
from agent.proxy.messages.head import Field
from agent.proxy.report.record import Half, Live, Record
from agent.proxy.report.rows import Row, record_of
from agent.proxy.report.story import Explained
from agent.requests.picking import Picker
from agent.requests.taps import Wanted
from policies.claim import as_text
from policies.kinds.log.decide import REDACTED, Compiled
from policies.kinds.log.showing import Shown, body_of

MOST_UNDER_WAY: Final = 200
PER_S: Final = 100.0
RING_BYTES: Final = 1024 * 1024
BATCH_BYTES: Final = 256 * 1024
MOST_DECISIONS: Final = 64
MAX_TEXT: Final = 400
"""Of what one decision says, in characters."""
MAX_TARGET: Final = 2048
NO_DOCUMENT: Final = "no log document of the service allows it (tap)"
_QUERY: Final = re.compile(r"\?[^\s;,]+")
NO_SECRETS: Final[list[bytes]] = []
HEADERS: Final = 1
BODIES: Final = 2


class Side:
    """What is noted of a request, or of its answer."""

    __slots__ = ("_begins", "_encoding", "_media", "_rules", "_shown", "_size")

    def __init__(self, rules: Compiled | None, wants: int) -> None:
        """`wants`: HEADERS, BODIES or both, whoever it is that does."""
        self._rules = rules
        self._shown: Shown | None = None
        if rules is not None and wants & HEADERS and rules.tap_headers:
            self._shown = Shown()
        self._begins: bytearray | None = None
        if rules is not None and wants & BODIES and rules.tap_bodies:
            self._begins = bytearray()
        self._size = 0
        self._media = b""
        self._encoding = b""

    def on_head(self, fields: list[Field], secrets: list[bytes]) -> None:
        """Its fields; `secrets`: names of those that may not be shown, whatever documents of `log` say."""
        rules, shown = self._rules, self._shown
        if rules is None or (shown is None and self._begins is None):
            return
        for field in fields:
            name = field.name
            if name == b"content-type":
                self._media = field.value
            elif name == b"content-encoding":
                self._encoding = field.value
            if shown is not None:
                shown.add(rules, name, field.value, name in secrets)

    def on_data(self, data: bytes) -> None:
        """A piece of its body."""
        self._size += len(data)
        begins, rules = self._begins, self._rules
        if begins is not None and rules is not None:
            room = rules.tap_bytes - len(begins)
            if room > 0:
                begins += data[:room]

    def half(self, wants: int) -> Half:
        """For somebody who wants that of it."""
        half, rules = Half(body_bytes=self._size), self._rules
        if wants & HEADERS:
            if self._shown is None:
                half.no_headers = NO_DOCUMENT
            else:
                half.headers, half.headers_left_out = self._shown.fields, self._shown.left_out
        if wants & BODIES:
            if self._begins is None or rules is None:
                half.no_body = NO_DOCUMENT
            else:
                found = body_of(rules, self._media, self._encoding, bytes(self._begins), self._size)
                half.body, half.no_body, half.body_cut = (None if found.why else found.text), found.why, found.cut
        return half


class Tapped:
    """One request under way."""

    __slots__ = ("_rules", "_wants", "answer", "asks_why", "called_as", "request", "story", "taps")

    def __init__(self, taps: Taps, story: Explained, asks_why: bool, rules: Compiled | None, wants: int) -> None:
        """`story`: what is decided of it, as it is added to; `wants`: of headers and bodies, what anybody does."""
        self.taps = taps
        self.story = story
        self.asks_why = asks_why
        """Whether who calls wants to know why, too."""
        self.called_as = ""
        self._rules = rules
        self._wants = wants
        self.request = Side(rules, wants)
        self.answer = Side(rules, wants)

    def on_answer(self, fields: list[Field], body: bytes) -> None:
        """An answer's head, and what came along of its body; the last one counts."""
        self.answer = answer = Side(self._rules, self._wants)
        answer.on_head(fields, NO_SECRETS)
        answer.on_data(body)

    def on_own(self, lines: list[bytes], body: bytes) -> None:
        """One of the mesh's own, by its header lines."""
        fields: list[Field] = []
        for line in lines:
            name, _, value = line.rstrip(b"\r\n").partition(b":")
            fields.append(Field(name.lower(), value.strip(), line, 0))
        self.on_answer(fields, body)

    def decisions(self) -> list[Any]:
        """What was decided, in its order: of each its texts, none longer than MAX_TEXT."""
        hides = self._rules is not None and self._rules.redacts_query
        return [_cut(entry, hides) for entry in self.story[:MOST_DECISIONS]]


def _cut(entry: dict[str, Any], hides: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, str):
            text = _QUERY.sub("?" + REDACTED, value) if hides and "?" in value else value
            found[name] = text[:MAX_TEXT]
        else:
            found[name] = value
    return found


class Tap(Picker):
    """What one of those who tap wants."""

    __slots__ = ("_size", "id", "lines", "lost", "wants")

    def __init__(self, id: str, wanted: Wanted) -> None:
        super().__init__(wanted.filter)
        self.id = id
        self.wants = (HEADERS if wanted.headers else 0) | (BODIES if wanted.bodies else 0)
        self.lines: deque[bytes] = deque()
        self._size = 0
        self.lost = 0

    def add(self, line: bytes) -> None:
        """To be handed over, where there is room."""
        if self._size + len(line) > RING_BYTES:
            self.lost += 1
            return
        self._size += len(line)
        self.lines.append(line)

    def take(self) -> Followed:
        """The oldest, and how many were lost behind all that waited; 0 where some go on waiting."""
        taken: list[bytes] = []
        size, lines = 0, self.lines
        while lines and (not taken or size + len(lines[0]) <= BATCH_BYTES):
            line = lines.popleft()
            size += len(line)
            taken.append(line)
        self._size -= size
        lost = 0
        if not lines:
            lost, self.lost = self.lost, 0
        return Followed(self.id, len(taken), b"".join(taken), lost)


class Pace:
    """So many a second, and as many at once."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = PER_S
        self._at = 0.0

    def takes(self, now: float) -> bool:
        """Whether there may be one more."""
        left = min(PER_S, self._left + (now - self._at) * PER_S)
        self._at = now
        self._left = left - 1.0 if left >= 1.0 else left
        return left >= 1.0


class Taps:
    """Of one worker, while anybody taps."""

    __slots__ = ("_begun", "_encode", "_told", "taps", "under_way")

    def __init__(self) -> None:
        self.taps: list[Tap] = []
        self.under_way = 0
        self._begun = Pace()
        self._told = Pace()
        self._encode: Any = msgspec.json.Encoder(enc_hook=as_text).encode

    def set(self, wanted: dict[str, Wanted]) -> None:
        """Who taps from now on; those who did go on where they are."""
        known = {tap.id: tap for tap in self.taps}
        self.taps = [known.get(id) or Tap(id, each) for id, each in wanted.items()]

    def begin(
        self,
        story: Explained | None,
        rules: Compiled | None,
        now: float,
        inbound: bool,
        caller: str,
        service: str,
        method: bytes,
        target: bytes,
    ) -> Tapped | None:
        """A request begins: what is to be noted of it; None: nobody wants it, or there is no room. `story`: of one
        whose caller wants to know why."""
        wanted, wants = False, 0
        for tap in self.taps:
            if tap.may_pick(inbound, caller, service, method, target):
                wanted, wants = True, wants | tap.wants
        if not wanted or self.under_way >= MOST_UNDER_WAY or not self._begun.takes(now):
            return None
        self.under_way += 1
        told: Explained = []
        return Tapped(self, told if story is None else story, story is not None, rules, wants)

    def offer(self, row: Row, tapped: Tapped | None, now: float) -> None:
        """A request ended."""
        if tapped is not None and tapped.taps is self:
            self.under_way -= 1
        record: Record | None = None
        for tap in self.taps:
            if not tap.picks(row[1], row[2], row[3], row[5], row[7], row[8], row[9], row[18]):
                continue
            if not self._told.takes(now):
                tap.lost += 1
                continue
            if record is None:
                record = record_of(row)
            try:
                tap.add(self._encode(_live(record, tapped, tap.wants)) + b"\n")
            except UnicodeEncodeError:  # no line may cost the request that it tells of
                tap.lost += 1

    def take(self, found: list[Followed]) -> None:
        """What is to be handed over by now, for each; at most so much at once."""
        for tap in self.taps:
            if tap.lines or tap.lost:
                found.append(tap.take())


def _live(record: Record, tapped: Tapped | None, wants: int) -> Live:
    live = Live(**{name: getattr(record, name) for name in Record.__struct_fields__})
    live.target = record.target[:MAX_TARGET]
    if not record.service:
        live.decisions = []  # it has met none
    if tapped is not None:
        live.called_as = tapped.called_as
        live.decisions = tapped.decisions()
        live.decisions_left_out = max(0, len(tapped.story) - MOST_DECISIONS)
        live.request, live.answer = tapped.request.half(wants), tapped.answer.half(wants)
    return live
