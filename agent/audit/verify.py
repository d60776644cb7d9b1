"""Whether a log is as it was written: every record of every segment, in order, against its chain and its heads.

What can be found, and where
- changed: a record is not what its hash is of, or not the one that the next was written behind
- removed: numbers are missing, and no record tells that they had been kept long enough
- reordered: a number stands behind a higher one, or twice
- cut: the log ends before a record that was its head once
- head: a head's signature is forged

A log that was written anew as a whole, with a chain that is whole, is found by its heads alone; and by those that
another host keeps, where whoever did it had the key of this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from agent.audit import heads as heading
from agent.audit.heads import Check, Kept
from agent.audit.record import BEGUN, ERASED, EXPIRED, LOST, SEALED, Position, Record, flaw, parsed

MOST_FINDINGS: Final = 100
Segment = tuple[str, Iterable[bytes]]
"""The name of a file, and its lines, each with its end."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was written."""

    what: str
    segment: str
    n: int
    """The record; of several, the first."""
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: record {self.n} ({self.segment}): {self.reason}"


class Report(msgspec.Struct):
    """Of one log."""

    host: str = ""
    segments: int = 0
    records: int = 0
    first: int = 0
    first_at: float = 0.0
    last: int = 0
    last_at: float = 0.0
    last_hash: str = ""
    erased: int = 0
    """Records whose personal values were taken away."""
    expired: int = 0
    """Records that had been kept long enough, and have no content any more."""
    lost: int = 0
    """Records that could not be written, as the log itself tells."""
    torn: bool = False
    """Its last line has no end: its agent was killed, or is writing."""
    heads: int = 0
    """That were looked at."""
    countersigned: int = 0
    """Up to this record, by another agent."""
    signed: int = 0
    """Up to this record, by its own."""
    findings: list[Finding] = []

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


class _Reading:
    """What is known while segments are read."""

    def __init__(
        self, report: Report, wanted: set[int], now_s: float, *, copy: bool = False, told_erased: int = 0
    ) -> None:
        self.copy = copy
        self.report = report
        self.behind: Position | None = None
        """None: nothing was read. An empty hash behind the first: the record there cannot be believed."""
        self.missing: dict[int, str] = {}
        """Numbers that were passed over, and the segment where that was seen."""
        self.hashes: dict[int, str] = {}
        """Of those records that there are heads of."""
        self.told_erased = told_erased
        self.begins_behind = Position()
        self.told_expired: set[Position] = set()
        self._wanted = wanted
        self._now_s = now_s

    def find(self, what: str, segment: str, n: int, reason: str) -> None:
        if len(self.report.findings) < MOST_FINDINGS:
            self.report.findings.append(Finding(what, segment, n, reason))

    def read(self, segment: str, lines: Iterable[bytes], *, last: bool) -> None:
        count, sealed = 0, False
        for text in lines:
            if not text.endswith(b"\n"):
                self.report.torn = last
                if not last:
                    self.find("cut", segment, self._next, "its last line has no end")
                break
            count += 1
            record = parsed(text)
            if isinstance(record, str):
                self.find("changed", segment, self._next, record)
                self.behind = Position(self._next, "")
                continue
            if sealed:
                self.find("changed", segment, record.n, "it stands behind the end of its segment")
            if count == 1 and record.event != BEGUN:
                self.find("removed", segment, record.n, "the segment does not begin with its beginning")
            self._take(segment, record)
            if record.event == SEALED:
                sealed = True
                told = (record.data or {}).get("records")
                if told != count:
                    self.find("removed", segment, record.n, f"the segment was closed with {told} records, not {count}")
        if not sealed and not last:
            self.find("cut", segment, self._next - 1, "the segment was never closed, and another one follows")

    @property
    def _next(self) -> int:
        return self.behind.n + 1 if self.behind is not None else 1

    def _take(self, segment: str, record: Record) -> None:
        report, n = self.report, record.n
        report.records += 1
        bad = flaw(record)
        if bad:
            self.find("changed", segment, n, bad)
        if report.host and record.host != report.host:
            self.find("changed", segment, n, f"it is of the log of {record.host[:100]!r}, not {report.host!r}")
        self._place(segment, record)
        self._tell(segment, record)
        if n in self._wanted and not bad:
            self.hashes[n] = record.hash

    def _place(self, segment: str, record: Record) -> None:
        report, n, behind = self.report, record.n, self.behind
        if behind is None:
            report.host, report.first, report.first_at = record.host, n, record.at
            self.begins_behind = Position(n - 1, record.prev)
        elif n <= behind.n:
            if n in self.missing:
                del self.missing[n]
                self.find("reordered", segment, n, f"it stands behind record {behind.n}")
            else:
                self.find("reordered", segment, n, f"its number comes again behind record {behind.n}")
            return
        elif n > behind.n + 1:
            for number in range(behind.n + 1, min(n, behind.n + 1 + MOST_FINDINGS * 100)):
                self.missing[number] = segment
        elif behind.hash and record.prev != behind.hash:
            self.find("changed", segment, behind.n, f"record {n} was written behind another one")
        self.behind = record.position
        report.last, report.last_at, report.last_hash = n, record.at, record.hash

    def _tell(self, segment: str, record: Record) -> None:
        report, data = self.report, record.data
        if data is None:
            report.expired += 1
            if not 0 < record.until <= self._now_s:
                self.find("removed", segment, record.n, "its content is gone, before it had been kept long enough")
            return
        if record.personal.keys() - record.values.keys():
            report.erased += 1
        if record.event == LOST:
            report.lost += _number(data.get("count"))
        elif record.event == ERASED:
            self.told_erased += _number(data.get("records"))
        elif record.event == EXPIRED:
            self.told_expired.add(Position(_number(data.get("last")), str(data.get("hash"))))

    def end(self, segment: str) -> None:
        """What only shows when all was read."""
        for first, last in _ranges(sorted(self.missing)):
            many = f"records {first} to {last} are not there" if last > first else "it is not there"
            self.find("removed", self.missing[first], first, many)
        before = self.begins_behind
        if before.n > 0 and not self.copy and before not in self.told_expired:
            reason = f"records 1 to {before.n} are not there, and no record tells that they had been kept long enough"
            self.find("removed", segment, 1, reason)
        if self.report.erased > self.told_erased:
            reason = (
                f"the personal values of {self.report.erased} records are gone, and the log tells of {self.told_erased}"
            )
            self.find("removed", segment, self.report.first, reason)


def examine(
    segments: Sequence[Segment],
    heads: Sequence[Kept] = (),
    *,
    now_s: float,
    check: Check | None = None,
    copy: bool = False,
    told_erased: int = 0,
) -> Report:
    """One host's log: its segments in order. `heads`: all that are known of it, wherever they were kept. `check`: None
    where signatures cannot be looked at. `copy`: it is of closed segments, which may begin and end before the log does;
    `told_erased`: records in it from which somebody was erased, as whoever holds it knows."""
    report = Report(findings=[])
    reading = _Reading(report, {kept.head.n for kept in heads}, now_s, copy=copy, told_erased=told_erased)
    for number, (name, lines) in enumerate(segments, start=1):
        report.segments += 1
        reading.read(name, lines, last=number == len(segments))
    name = segments[-1][0] if segments else ""
    reading.end(segments[0][0] if segments else "")
    for kept in heads:
        _look_at(kept, reading, name, check)
    return report


def _look_at(kept: Kept, reading: _Reading, segment: str, check: Check | None) -> None:
    head, report = kept.head, reading.report
    report.heads += 1
    if check is not None:
        judged = heading.judged(kept, check)
        if isinstance(judged, str):
            reading.find("head", segment, head.n, judged)
            return
        kept = judged
    seen = [each.host for each in kept.witnesses]
    by = f"countersigned by {', '.join(seen)}" if seen else "signed" if kept.signature else "noted"
    if head.n > report.last and reading.copy:
        return
    if head.n > report.last:
        reason = f"the log ends with record {report.last}, and its head of {_time(head.at)}, {by}, was record {head.n}"
        reading.find("cut", segment, head.n, reason)
    elif head.n in reading.hashes and reading.hashes[head.n] != head.hash:
        reason = f"it is not the record that was its head at {_time(head.at)}, {by}: what leads to it was written anew"
        reading.find("changed", segment, head.n, reason)
    elif head.n in reading.hashes:
        if seen:
            report.countersigned = max(report.countersigned, head.n)
        if kept.signature:
            report.signed = max(report.signed, head.n)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = 0
    for number in numbers:
        if first and number == last + 1:
            last = number
            continue
        if first:
            yield first, last
        first = last = number
    if first:
        yield first, last


def _time(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return "an impossible time"
