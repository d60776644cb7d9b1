"""The spool: what was kept is there after any end, and what was not is not."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.topics.spool import Item, Spool


def kept(spool: Spool) -> list[bytes]:
    found = []
    while (item := spool.read()) is not None:
        found.append(item.record)
    return found


def abandoned(spool: Spool) -> None:
    """Its process was killed."""
    for segment in spool._segments:
        segment.close()


def append(spool: Spool, *records: bytes) -> None:
    trio.run(spool.append, records)


def test_in_order_and_over_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=100)
    records = [b"%d" % n * n for n in range(1, 40)]
    for n in range(0, 39, 3):
        append(spool, *records[n : n + 3])
    assert spool.waiting == 39
    first = [spool.read() for _ in range(20)]
    spool.done([item for item in first[:10] if item is not None])
    assert spool.waiting == 29
    assert kept(Spool(tmp_path, segment_bytes=100)) == records[10:], "as if we had been killed"


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.data())
def test_a_crash_at_any_byte(records: list[bytes], data: st.DataObject) -> None:
    """A file cut anywhere gives every record that is whole, in order, and then nothing; and it can be appended to."""
    folder = Path(tempfile.mkdtemp())
    try:
        spool = Spool(folder)
        append(spool, *records)
        (path,) = folder.glob("*.records")
        size = path.stat().st_size
        assert size == sum(8 + len(record) for record in records)
        cut = data.draw(st.integers(0, size))
        os.truncate(path, cut)
        whole: list[bytes] = []
        for record in records:
            cut -= 8 + len(record)
            if cut < 0:
                break
            whole.append(record)
        again = Spool(folder)
        assert kept(again) == whole
        append(again, b"more")
        assert kept(again) == [b"more"]
        assert kept(Spool(folder)) == [*whole, b"more"]
    finally:
        shutil.rmtree(folder)


@given(st.data())
def test_a_byte_that_changed(data: st.DataObject) -> None:
    """What stands before is there, what is damaged is not taken for a record, and the file is kept for people."""
    folder = Path(tempfile.mkdtemp())
    try:
        records = [b"one", b"two two", b"three", b"four"]
        append(Spool(folder), *records)
        (path,) = folder.glob("*.records")
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        spool = Spool(folder)
        found: list[Item] = []
        while (item := spool.read()) is not None:
            found.append(item)
        assert [item.record for item in found] == records[: len(found)] and len(found) < 4
        spool.done(found)
        append(spool, b"more")
        assert kept(spool) == [b"more"]
    finally:
        shutil.rmtree(folder)


def test_damage_is_kept_for_people(tmp_path: Path) -> None:
    append(Spool(tmp_path), b"one", b"two", b"three")
    (path,) = tmp_path.glob("*.records")
    raw = bytearray(path.read_bytes())
    raw[8 + 3 + 8] ^= 1
    path.write_bytes(raw)
    spool = Spool(tmp_path)
    item = spool.read()
    assert item is not None and item.record == b"one" and spool.read() is None
    spool.done([item])
    assert [path.suffix for path in tmp_path.iterdir()] == [".damaged"]
    assert b"three" in next(tmp_path.iterdir()).read_bytes()
    assert Spool(tmp_path).waiting == 0


def test_damage_while_it_runs(tmp_path: Path) -> None:
    """What does not read as it was written is not sent, and not waited for."""
    spool = Spool(tmp_path, segment_bytes=10)
    append(spool, b"one one", b"two")
    append(spool, b"three")
    (path, _) = sorted(tmp_path.glob("*.records"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert kept(spool) == [b"one one", b"three"]
    assert spool.waiting == 2


def test_a_disk_that_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a write is none; what was kept before stays, and later there is room again."""
    spool = Spool(tmp_path)
    append(spool, b"one")
    real, full = os.pwrite, True

    def pwrite(fd: int, data: bytes, at: int) -> int:
        if full:
            real(fd, data[:5], at)
            raise OSError(28, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            append(spool, b"two", b"three")
    assert spool.waiting == 1 and kept(Spool(tmp_path)) == [b"one"]
    full = False
    append(spool, b"four")
    assert kept(spool) == [b"one", b"four"] and kept(Spool(tmp_path)) == [b"one", b"four"]


def test_a_file_that_cannot_be_opened_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files are no damage: it is read when it can be."""
    append(Spool(tmp_path), b"one", b"two")
    spool = Spool(tmp_path)
    with monkeypatch.context() as patch:

        def no_more(*_: object) -> int:
            raise OSError(24, "Too many open files")

        patch.setattr(os, "open", no_more)
        with pytest.raises(OSError, match="Too many"):
            spool.read()
    assert kept(spool) == [b"one", b"two"]


def test_a_large_backlog_is_few_open_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=10)
    for n in range(50):
        append(spool, b"%05d" % n * 3)
    before = len(os.listdir("/proc/self/fd"))
    again = Spool(tmp_path, segment_bytes=10)
    assert len(kept(again)) == 50
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_is_delivered_leaves_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=1000)
    for n in range(100):
        append(spool, b"%03d" % n * 50)
    assert spool.size == 100 * 158
    while (item := spool.read()) is not None:
        spool.done([item])
    assert spool.waiting == 0 and spool.size <= 1000 + 158
    spool.close()
    assert list(tmp_path.iterdir()) == []


class Model(RuleBasedStateMachine):
    """Kept, read, delivered and restarted in any order: nothing that was not delivered is ever missing."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.spool = Spool(self.folder, segment_bytes=64)
        self.number = 0
        self.expected: list[bytes] = []
        self.read: list[Item] = []

    @rule(count=st.integers(1, 4), size=st.integers(0, 40))
    def append(self, count: int, size: int) -> None:
        records = [b"%d:" % (self.number + n) + b"x" * size for n in range(count)]
        self.number += count
        append(self.spool, *records)
        self.expected += records

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            if (item := self.spool.read()) is not None:
                self.read.append(item)

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        if self.read:
            item = self.read.pop(data.draw(st.integers(0, len(self.read) - 1)))
            self.spool.done([item])
            self.expected.remove(item.record)

    @rule(orderly=st.booleans())
    def restart(self, orderly: bool) -> None:
        if orderly:
            self.spool.close()
        abandoned(self.spool)
        self.spool = Spool(self.folder, segment_bytes=64)
        self.read = []

    @invariant()
    def nothing_is_missing(self) -> None:
        assert self.spool.waiting == len(self.expected)
        copy = self.folder.with_suffix(".copy")
        shutil.copytree(self.folder, copy)
        try:
            again = Spool(copy, segment_bytes=64)
            assert sorted(kept(again)) == sorted(self.expected)
            abandoned(again)
        finally:
            shutil.rmtree(copy)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)


TestModel = Model.TestCase
