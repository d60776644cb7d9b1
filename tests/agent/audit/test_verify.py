"""A log that was tampered with is found out, whatever was done to it, and the place is told."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.audit.heads import Doubt, Head, Kept, Witness
from agent.audit.record import (
    BEGUN,
    ERASED,
    EXPIRED,
    MAX_TEXT,
    Draft,
    Position,
    Record,
    commitment,
    content_hash,
    erased,
    expired,
    flaw,
    line,
    made,
    parsed,
    record_hash,
)
from agent.audit.verify import Report, examine
from tests.support.audit_logs import Log, lines, log

NOW_S = 5000.0


def verified(log: Log, *heads: Kept) -> Report:
    return examine(lines(log.segments), heads, now_s=NOW_S)


def told(report: Report) -> list[tuple[str, str, int]]:
    return [(found.what, found.segment, found.n) for found in report.findings]


def head_of(log: Log, n: int, *witnesses: str) -> Kept:
    records = [record for segment in log.segments for record in segment]
    found = next(record for record in records if record.n == n)
    head = Head("default", log.host, n, found.hash, found.at)
    return Kept(head, witnesses=tuple(Witness(host, found.at) for host in witnesses))


def test_an_untouched_log_is_good() -> None:
    """Every record, over three segments, with heads."""
    made = log()
    report = verified(made, head_of(made, 9), head_of(made, 12, "db-1"))
    assert report.findings == []
    assert (report.records, report.last, report.first, report.countersigned) == (20, 20, 1, 12)


def replaced(record: Record, **fields: object) -> Record:
    """Changed, by somebody who makes its own hashes right again."""
    changed = msgspec.structs.replace(record, **fields)
    if changed.data is not None:
        changed = msgspec.structs.replace(changed, content=content_hash(changed.data, changed.personal))
    return msgspec.structs.replace(changed, hash=record_hash(changed))


def with_data(log: Log) -> None:
    record = log.segments[1][3]
    log.segments[1][3] = msgspec.structs.replace(record, data={**(record.data or {}), "status": 200})


def with_right_hashes(log: Log) -> None:
    record = log.segments[1][3]
    log.segments[1][3] = replaced(record, data={**(record.data or {}), "status": 200})


def with_time(log: Log) -> None:
    log.segments[1][3] = msgspec.structs.replace(log.segments[1][3], at=1.0)


def with_value(log: Log) -> None:
    record = log.segments[1][3]
    log.segments[1][3] = msgspec.structs.replace(record, values={**record.values, "client": "10.9.9.9"})


def with_value_and_commitment(log: Log) -> None:
    record = log.segments[1][3]
    personal = {**record.personal, "client": commitment("client", "10.9.9.9", record.salts["client"])}
    values = {**record.values, "client": "10.9.9.9"}
    log.segments[1][3] = msgspec.structs.replace(record, values=values, personal=personal)


@pytest.mark.parametrize(
    "change", [with_data, with_right_hashes, with_time, with_value, with_value_and_commitment], ids=lambda f: f.__name__
)
def test_a_changed_record_is_found(change: Callable[[Log], None]) -> None:
    """Whatever of it was changed, with its own hashes made right or not."""
    tampered = log()
    change(tampered)
    assert told(verified(tampered)) == [("changed", "1.log", 11)]


def test_a_removed_record_is_found() -> None:
    """In the middle; also where everything behind it gets new numbers: then it is the next one that does not fit."""
    tampered = log()
    del tampered.segments[1][3]
    assert told(verified(tampered))[-1] == ("removed", "1.log", 11)
    numbered = log()
    del numbered.segments[1][3]
    behind = [replaced(record, n=record.n - 1) for record in numbered.segments[1][3:]]
    numbered.segments[1][3:] = behind
    assert ("changed", "1.log", 10) in told(verified(numbered))


def test_two_that_changed_places_are_found() -> None:
    """Next to each other, and across segments."""
    tampered = log()
    records = tampered.segments[1]
    records[2], records[3] = records[3], records[2]
    assert told(verified(tampered)) == [("reordered", "1.log", 10)]
    twice = log()
    twice.segments[1].insert(4, twice.segments[1][2])
    assert ("reordered", "1.log", 10) in told(verified(twice))


def test_a_segment_that_is_gone_is_found() -> None:
    """In the middle, at the beginning, and closed ones that lost their end."""
    tampered = log()
    del tampered.segments[1]
    assert told(verified(tampered)) == [("removed", "1.log", 8)]
    beheaded = log()
    del beheaded.segments[0]
    assert told(verified(beheaded)) == [("removed", "0.log", 1)]
    cut = log()
    del cut.segments[1][-2:]
    assert {what for what, _, _ in told(verified(cut))} == {"cut", "removed"}


def test_a_cut_tail_shows_by_a_head_alone() -> None:
    """The chain is whole without it."""
    tampered = log()
    head = head_of(tampered, 20, "db-1")
    del tampered.segments[2][-2:]
    assert verified(tampered).findings == []
    report = verified(tampered, head)
    assert told(report) == [("cut", "2.log", 20)]
    assert "countersigned by db-1" in report.findings[0].reason


def test_a_log_that_was_written_anew_shows_by_a_head() -> None:
    """With every hash right from the changed record on."""
    tampered, whole = log(), log()
    head = head_of(whole, 20, "db-1")
    behind = tampered.segments[1][2].position
    for records in (tampered.segments[1], tampered.segments[2]):
        for at, record in enumerate(records):
            if record.n > behind.n:
                records[at] = replaced(record, prev=behind.hash, data={**(record.data or {}), "n": 99})
                behind = records[at].position
    assert verified(tampered, head).findings[-1].what == "changed"
    assert told(verified(tampered, head))[-1] == ("changed", "2.log", 20)


def test_erasing_a_person_leaves_the_chain() -> None:
    """Where the log tells of it; values that are gone without a word are found."""
    kept = log()
    for records in kept.segments:
        for at, record in enumerate(records):
            if record.values.get("claim.sub") == "haxor2":
                records[at] = erased(record)
    assert [what for what, _, _ in told(verified(kept))] == ["removed"]
    kept.add(ERASED, {"records": 3})
    report = verified(kept)
    assert (report.findings, report.erased) == ([], 3)
    assert b"haxor2" not in b"".join(text for _, texts in lines(kept.segments) for text in texts)


def test_what_was_kept_long_enough_may_go() -> None:
    """Its content, when its time is over; whole segments, when the log tells of it."""
    kept = Log()
    kept.begin()
    early, late = kept.add("a", {"x": 1}, until=NOW_S - 1), kept.add("a", {"x": 1}, until=NOW_S + 1)
    kept.segments[0][1] = expired(early)
    report = verified(kept)
    assert (report.findings, report.expired) == ([], 1)
    kept.segments[0][2] = expired(late)
    assert told(verified(kept)) == [("removed", "0.log", 3)]
    gone = log()
    last = gone.segments[0][-1].position
    gone.add(EXPIRED, {"last": last.n, "hash": last.hash})
    del gone.segments[0]
    assert verified(gone).findings == []


def test_a_torn_end_is_no_tampering() -> None:
    """Of the open segment; of a closed one it is."""
    torn = lines(log().segments)
    torn[2][1][-1] = torn[2][1][-1][:-20]
    report = examine(torn, now_s=NOW_S)
    assert (report.findings, report.torn) == ([], True)
    torn[1][1][-1] = torn[1][1][-1][:-20]
    assert examine(torn, now_s=NOW_S).findings[0].what == "cut"


def test_a_signature_that_does_not_hold_is_found() -> None:
    """And such a head says nothing else."""
    made = log()
    kept = msgspec.structs.replace(head_of(made, 20), signature="ab", certificate="cd")
    report = examine(
        lines(made.segments), [kept], now_s=NOW_S, check=lambda *_: Doubt("it is another key's", forged=True)
    )
    assert told(report) == [("head", "2.log", 20)]
    unknown = Doubt("its root is gone", forged=False)
    assert examine(lines(made.segments), [kept], now_s=NOW_S, check=lambda *_: unknown).signed == 0
    assert examine(lines(made.segments), [kept], now_s=NOW_S, check=lambda *_: None).signed == 20


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"{}\n", b"null\n", b"\xff\xfe\n", b"[" * 5000 + b"\n", b'{"n":1}\n', b'{"n": 1e400}\n'],
    ids=range(8),
)
def test_garbage_is_a_finding(text: bytes) -> None:
    """And no exception."""
    broken = lines(log().segments)
    broken[1][1].insert(2, text)
    assert examine(broken, now_s=NOW_S).findings
    assert examine([("0", [text])], now_s=NOW_S) is not None


def test_one_spelling() -> None:
    """What reads the same and is spelled otherwise was not written here: two names of one field could be read twice."""
    record = log().segments[0][1]
    text = line(record)
    assert isinstance(parsed(text.replace(b'"n":2', b'"n": 2')), str)
    assert isinstance(parsed(text.replace(b'{"n":2', b'{"n":9,"n":2')), str)
    assert isinstance(parsed(text.replace(b'"host":"web-1"', b'"host":"web\\u002d1"')), str)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(data=st.dictionaries(st.text(), HOSTILE, max_size=5), personal=st.dictionaries(st.text(), st.text(), max_size=4))
def test_whatever_is_told_can_be_written_and_read(data: dict[str, object], personal: dict[str, str]) -> None:
    """Line ends, escapes, halves of surrogates, infinities, numbers of any size."""
    record = made(Draft("request.allowed", 1, data, personal), "web-1", Position(), lambda size: bytes(size))
    text = line(record)
    assert text.count(b"\n") == 1
    assert text.isascii()
    assert b"\x1b" not in text
    again = parsed(text)
    assert again == record
    assert flaw(record) == ""
    assert json.loads(text)["n"] == 1


def test_halves_of_surrogates_and_huge_claims_are_bounded() -> None:
    """They come from headers and tokens."""
    personal = {"claim.sub": "x" * 1_000_000, "client": "\ud800\n\x1b[2J"}
    data = {"path": "/" + "\u202e" * 10_000, "deep": [[[[[[[[1]]]]]]]], "many": {str(n): n for n in range(1000)}}
    record = made(Draft(BEGUN, 1.0, data, personal), "h", Position(), lambda size: bytes(size))
    assert len(line(record)) < 20_000
    assert parsed(line(record)) == record
    assert len(record.values["claim.sub"]) == MAX_TEXT
