"""What is handed over is written, once and in order; a disk that does not take it costs records, which are counted."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from agent.audit.record import LOST, Draft, Record, parsed
from agent.audit.verify import Report, examine
from agent.control.audit import files, log, segments
from agent.control.audit.log import AuditLog
from agent.control.audit.segments import RECOVERED, Segments


class Clock:
    """Unix time, as a test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def made(folder: Path, clock: Callable[[], float] | None = None, **how: float) -> AuditLog:
    return AuditLog(
        folder,
        "web-1",
        about={"mesh": "default"},
        segment_bytes=int(how.get("segment_bytes", 1 << 20)),
        segment_s=how.get("segment_s", 3600.0),
        clock=clock or Clock(),
        chance=os.urandom,
    )


def records(folder: Path) -> list[Record]:
    found = [parsed(text) for path in files.segments(folder) for text in files.lines(path)]
    assert not [record for record in found if isinstance(record, str)]
    return [record for record in found if isinstance(record, Record)]


def verified(folder: Path) -> Report:
    return examine([(path.name, files.lines(path)) for path in files.segments(folder)], now_s=2_000_000.0)


def events(folder: Path) -> list[str]:
    return [record.event for record in records(folder)]


async def test_what_is_noted_is_written_and_verifies(tmp_path: Path) -> None:
    """In order, with salts of their own, over two lives of the agent."""
    for _ in range(2):
        audit = made(tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit.run)
            for n in range(5):
                audit.note("authz.denied", {"n": n}, {"client": "10.0.0.1"})
            nursery.cancel_scope.cancel()
    assert events(tmp_path) == ["segment.begun", *["authz.denied"] * 10]
    assert [record.n for record in records(tmp_path)] == list(range(1, 12))
    assert len({record.personal["client"] for record in records(tmp_path)[1:]}) == 10
    assert verified(tmp_path).findings == []
    (path,) = files.segments(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_who_waits_hears_after_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not before; who does not wait costs no sync of his own."""
    audit, order = made(tmp_path), list[str]()
    sync = Segments.sync

    def noted(self: Segments) -> str:
        order.append("synced")
        return sync(self)

    monkeypatch.setattr(Segments, "sync", noted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        heard = trio.Event()

        def reply(reason: str) -> None:
            order.append(f"told {reason}")
            heard.set()

        audit.synced(Draft("request.allowed", 1.0, {}), reply)
        await heard.wait()
        assert order == ["synced", "told "]
        nursery.cancel_scope.cancel()


async def test_what_is_being_written_is_still_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flushed` counts the batch that a slow disk has in its hands."""
    audit, begun, go_on = made(tmp_path), trio.Event(), threading.Event()
    append = Segments.append
    token = trio.lowlevel.current_trio_token()

    def slow(self: Segments, drafts: list[Draft], *, sync: bool = False) -> object:
        if any(draft.event == "authz.denied" for draft in drafts):
            token.run_sync_soon(begun.set)
            assert go_on.wait(10)
        return append(self, drafts, sync=sync)

    monkeypatch.setattr(Segments, "append", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        audit.note("authz.denied", {})
        await begun.wait()
        assert audit.waiting == 1
        async with trio.open_nursery() as waiting:
            waiting.start_soon(audit.flushed)
            go_on.set()
        assert (audit.waiting, audit.position.n) == (0, 2)
        nursery.cancel_scope.cancel()


async def test_segments_are_closed_by_size_and_by_age(tmp_path: Path) -> None:
    """And the chain goes on from one to the next. A clock that was set back closes one, too."""
    clock = Clock()
    audit = made(tmp_path, clock, segment_bytes=3000, segment_s=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        for _ in range(20):
            audit.note("a", {"x": "y" * 200})
            await audit.flushed()
        await trio.testing.wait_all_tasks_blocked()
        by_size = len(files.segments(tmp_path))
        closed = audit.closed
        audit.note("a", {})
        await audit.flushed()
        clock.now -= 500
        await closed.wait()
        nursery.cancel_scope.cancel()
    assert by_size > 2
    assert len(files.segments(tmp_path)) > by_size - 1
    report = verified(tmp_path)
    assert (report.findings, report.records) == ([], report.last)


async def test_a_full_disk_is_told_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits hears of it; what nobody waits for is written later; what did not fit is told of by the log itself. No
    piece of a line stays."""
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    monkeypatch.setattr(log, "MOST_WAITING", 10)
    real, full = os.write, [False]

    def write(fd: int, data: memoryview) -> int:
        if full[0]:
            if len(data) > 50:
                return real(fd, data[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    def none(fd: int, data: memoryview) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(segments.os, "write", write)
    audit, said = made(tmp_path), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        audit.note("a", {"n": 1})
        await audit.flushed()
        monkeypatch.setattr(segments.os, "write", none)
        full[0] = True
        audit.synced(Draft("request.allowed", 1.0, {}), said.append)
        for n in range(20):
            audit.note("b", {"n": n})
        with trio.fail_after(10):
            while not said or not audit.error:
                await trio.sleep(0.01)
        assert said == ["No space left on device"]
        assert audit.lost >= 10
        full[0] = False
        with trio.fail_after(10):
            while audit.error or audit.waiting:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    report = verified(tmp_path)
    assert report.findings == []
    assert report.lost == audit.lost
    assert LOST in events(tmp_path)
    assert events(tmp_path).count("b") == 20 - (audit.lost - 1)


def test_a_piece_that_did_not_fit_is_taken_back(tmp_path: Path) -> None:
    """By the kernel's own limit on a file's size; and the chain goes on behind what is whole."""
    code = textwrap.dedent("""
        import os, resource, signal, sys
        from pathlib import Path
        from agent.audit.record import Draft
        from agent.control.audit.segments import Segments
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = Segments(Path(sys.argv[1]), "web-1", {}, lambda: 1.0, os.urandom)
        log.open()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
        first = log.append([Draft("a", 1.0, {"x": "y" * 300})] * 10, sync=True)
        assert 0 < first.records < 10 and first.reason and first.durable, first
        assert log.append([Draft("a", 1.0, {"x": "y" * 300})], sync=True).records == 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert log.append([Draft("b", 1.0, {})], sync=True).durable
        print(first.records)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=True
    )
    assert events(tmp_path) == ["segment.begun", *["a"] * int(done.stdout), "b"]
    assert verified(tmp_path).findings == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_writer_that_is_killed_loses_nothing_that_it_said(tmp_path: Path) -> None:
    """Killed in the middle of writing, again and again: each record that was said to be on disk is there, the chain is
    whole, and a piece of a line is taken off and told."""
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from agent.audit.record import Draft
        from agent.control.audit.segments import Segments
        log = Segments(Path(sys.argv[1]), "web-1", {}, lambda: 1.0, os.urandom)
        log.open()
        n = 0
        while True:
            log.append([Draft("a", 1.0, {"life": sys.argv[2], "n": n, "x": "y" * 900})] * 50, sync=True)
            print(log.position.n, flush=True)
            n += 1
            if n % 7 == 0:
                log.seal()
    """)
    for life in range(4):
        writer = subprocess.Popen([sys.executable, "-c", code, tmp_path, str(life)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(10)]
        writer.send_signal(signal.SIGKILL)
        said += [int(text) for text in writer.stdout.read().split("\n")[:-1]]
        writer.wait()
        writer.stdout.close()
        Segments(tmp_path, "web-1", {}, lambda: 1.0, os.urandom).open()
        report = verified(tmp_path)
        assert report.findings == []
        assert report.last >= max(said)


def torn(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"n":4,"at":1')


def zeroes(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(4096) + b"\n")


@pytest.mark.parametrize(("damage", "good"), [(torn, True), (zeroes, False)])
def test_an_end_that_makes_no_sense(tmp_path: Path, damage: Callable[[Path], None], good: bool) -> None:
    """A piece of a line was never said to be there. What a disk has made of a file stays as it is, and shows; the log
    goes on in both cases, and tells."""
    first = Segments(tmp_path, "web-1", {}, lambda: 1.0, os.urandom)
    first.open()
    first.append([Draft("a", 1.0, {})] * 2, sync=True)
    first.close()
    (path,) = files.segments(tmp_path)
    damage(path)
    second = Segments(tmp_path, "web-1", {}, lambda: 1.0, os.urandom)
    second.open()
    second.append([Draft("b", 1.0, {})], sync=True)
    report = verified(tmp_path)
    assert report.findings == [] if good else {found.what for found in report.findings} >= {"changed"}
    found = [parsed(text) for path in files.segments(tmp_path) for text in files.lines(path)]
    told = [record.event for record in found if isinstance(record, Record)]
    assert told.count(RECOVERED) == 1
    assert told[-1] == "b"
    assert report.last == second.position.n


async def test_a_file_that_was_taken_away_shows(tmp_path: Path) -> None:
    """While it is written to: the log does not begin anew."""
    writer = Segments(tmp_path, "web-1", {}, lambda: 1.0, os.urandom)
    writer.open()
    writer.append([Draft("a", 1.0, {})] * 3, sync=True)
    (path,) = files.segments(tmp_path)
    path.unlink()
    writer.append([Draft("b", 1.0, {})], sync=True)
    assert [record.n for record in records(tmp_path)] == [5, 6]
    assert [found.what for found in verified(tmp_path).findings] == ["removed"]


async def test_a_folder_that_cannot_be_used_costs_records_and_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is used as soon as it can be."""
    monkeypatch.setattr(log, "RETRY_S", 0.01)
    folder = tmp_path / "audit"
    folder.write_text("in the way")
    audit, said = made(folder), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        audit.note("a", {})
        with trio.fail_after(10):
            while not audit.error:
                await trio.sleep(0.01)
        folder.unlink()
        audit.synced(Draft("b", 1.0, {}), said.append)
        with trio.fail_after(10):
            while not said:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert said == [""]
    assert events(folder) == ["segment.begun", "a", "b"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever could put one there would choose what is written to."""
    other = tmp_path / "other"
    other.write_text("x")
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "000000000001.open").symlink_to(other)
    writer = Segments(folder, "web-1", {}, lambda: 1.0, os.urandom)
    with pytest.raises(OSError):
        writer.open()
    assert other.read_text() == "x"
