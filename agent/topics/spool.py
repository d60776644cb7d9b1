"""Records on disk, in order, until somebody else has them: segments that are appended to and synced.

Laws
- `append` returns when every record of it is on disk and synced; when it raises, none of it counts.
- A record is whole or it is not there: each has its length and its CRC. A tail that was torn by a crash is cut off; it
  was acknowledged to nobody.
- Damage in the middle costs what is damaged and no more, and the file is kept for people.
- What was delivered is noted beside the segment without a sync: after a power cut it may be delivered twice.

One writer at a time; everything else is called from one thread.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio

from agent.process import own_files
from agent.process.descriptors import OURS

log = structlog.get_logger()
SEGMENT_BYTES: Final = 4 * 1024 * 1024
MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct(">II")
_NUMBER: Final = struct.Struct(">I")


class Item(NamedTuple):
    """A record that waits."""

    segment: int
    ordinal: int
    """Within the segment."""
    record: bytes


class Damaged(Exception):
    """It does not read as it was written."""


class _Segment:
    """One file of records, and one of the numbers of those that are delivered."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.path = folder / f"{number:010}.records"
        self.notes = folder / f"{number:010}.delivered"
        self.fd = -1
        self.notes_fd = -1
        self.size = 0
        """Of what counts."""
        self.count = 0
        self.delivered: set[int] = set()
        self.read_at = 0
        self.read_index = 0
        self.damaged = False

    def recover(self) -> None:
        """Find out what is in it. Raises OSError when it cannot be read."""
        data = own_files.read(self.path)
        position = 0
        while position + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, position)
            record = data[position + _HEAD.size : position + _HEAD.size + length]
            if len(record) < length or zlib.crc32(record) != crc:
                break
            position += _HEAD.size + length
            self.count += 1
        self.size = position
        if position < len(data):
            self._mend(data)
        noted = own_files.read_as(self.notes, bytes) or b""
        whole = len(noted) - len(noted) % _NUMBER.size
        self.delivered = {number for (number,) in _NUMBER.iter_unpack(noted[:whole]) if number < self.count}

    def _mend(self, data: bytes) -> None:
        """Behind what is whole there is something: a torn tail, or, with a record behind it, damage."""
        length = _HEAD.unpack_from(data, self.size)[0] if self.size + _HEAD.size <= len(data) else len(data)
        if self.size + _HEAD.size + length >= len(data):
            log.warning(
                "a record was torn by a crash, and is cut off", path=str(self.path), bytes=len(data) - self.size
            )
        else:
            self.damaged = True
            log.error("damaged: what is behind cannot be read", path=str(self.path), at=self.size, bytes=len(data))

    def open(self) -> None:
        """For appending."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self.fd, self.size)

    def write(self, blob: bytes) -> None:
        """Append and sync. Raises OSError, and then nothing of it is there."""
        try:
            done = 0
            while done < len(blob):
                done += os.pwrite(self.fd, blob[done:], self.size + done)
            os.fdatasync(self.fd)
        except OSError:
            os.ftruncate(self.fd, self.size)
            raise

    def read(self) -> bytes | None:
        """The next record that was not read yet; None at the end. Raises OSError, and Damaged."""
        if self.read_index >= self.count:
            return None
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        head = os.pread(self.fd, _HEAD.size, self.read_at)
        length, crc = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, -1)
        record = os.pread(self.fd, length, self.read_at + _HEAD.size)
        if zlib.crc32(record) != crc:
            raise Damaged
        self.read_at += _HEAD.size + length
        self.read_index += 1
        return record

    def note(self, indexes: Iterable[int]) -> None:
        """These are delivered. Without a sync, and without complaint: it only spares a second delivery."""
        new = set(indexes) - self.delivered
        self.delivered |= new
        try:
            if self.notes_fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self.notes_fd = os.open(self.notes, flags, 0o600)
            os.write(self.notes_fd, b"".join(_NUMBER.pack(index) for index in sorted(new)))
        except OSError as error:
            log.warning("what is delivered cannot be noted", path=str(self.notes), error=error.strerror)

    @property
    def finished(self) -> bool:
        """All of it is delivered."""
        return len(self.delivered) >= self.count

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self.fd, self.notes_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.notes_fd = -1

    def remove(self) -> None:
        """It is of no use any more; unless it is damaged, when it is kept for people."""
        self.close()
        if self.damaged:
            os.replace(self.path, self.path.with_suffix(".damaged"))
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


class Spool:
    """A folder of segments. Raises OSError when it cannot be used at all."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments: deque[_Segment] = deque()
        self._active: _Segment | None = None
        if os.path.lexists(folder) and not folder.is_dir():
            own_files.set_aside(folder, "it is no directory")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stems = [path.stem for path in folder.glob("*.records")]
        numbers = sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())
        for number in numbers:
            segment = _Segment(folder, number)
            if not _recovered(segment):
                continue
            if segment.finished:
                segment.remove()
            else:
                self._segments.append(segment)
        self._next = numbers[-1] + 1 if numbers else 1

    @property
    def waiting(self) -> int:
        """Records that are not delivered."""
        return sum(segment.count - len(segment.delivered) for segment in self._segments)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    async def append(self, records: Sequence[bytes]) -> None:
        """Keep records. Raises OSError: then none of them is kept."""
        blob = b"".join(_HEAD.pack(len(record), zlib.crc32(record)) + record for record in records)
        segment = self._active
        if segment is None or segment.size >= self._segment_bytes:
            segment = await trio.to_thread.run_sync(self._begin)
            self._active = segment
            self._segments.append(segment)
            self._next += 1
        try:
            await trio.to_thread.run_sync(segment.write, blob)
        except OSError:
            # After a sync that failed nobody knows what the file holds behind what was synced: it is not appended to.
            self._active = None
            if not segment.count:
                self._drop(segment)
            raise
        segment.size += len(blob)
        segment.count += len(records)

    def _begin(self) -> _Segment:
        segment = _Segment(self._folder, self._next)
        segment.open()
        sync_folder(self._folder)
        return segment

    def read(self) -> Item | None:
        """The next record that was not read since the start, and not delivered before it; None: there is none now.

        Raises OSError for what may be better later, such as too many open files: nothing is passed over for that.
        """
        for segment in self._segments:
            while True:
                index = segment.read_index
                try:
                    record = segment.read()
                except Damaged:
                    log.error("a segment does not read as it was written, and is kept", path=str(segment.path))
                    segment.damaged = True
                    segment.note(range(index, segment.count))
                    segment.read_index = segment.count
                    break
                if record is None:
                    break
                if index not in segment.delivered:
                    return Item(segment.number, index, record)
            if segment is not self._active and segment.fd >= 0:
                os.close(segment.fd)  # a large backlog is many files
                segment.fd = -1
        return None

    def done(self, items: Iterable[Item]) -> None:
        """These are delivered."""
        by_segment: dict[int, list[int]] = {}
        for item in items:
            by_segment.setdefault(item.segment, []).append(item.ordinal)
        for segment in list(self._segments):
            if segment.number in by_segment:
                segment.note(by_segment[segment.number])
            if segment.finished and (segment is not self._active or segment.size >= self._segment_bytes):
                self._drop(segment)

    def _drop(self, segment: _Segment) -> None:
        if segment is self._active:
            self._active = None
        self._segments.remove(segment)
        try:
            segment.remove()
        except OSError as error:
            log.warning("a segment that is delivered cannot be removed", path=str(segment.path), error=error.strerror)

    def close(self) -> None:
        """Let go of the files; what is delivered whole goes."""
        for segment in list(self._segments):
            if segment.finished:
                self._drop(segment)
            else:
                segment.close()


def _recovered(segment: _Segment) -> bool:
    """Whether it could be read; else it is set aside. Raises OSError for what is not its fault."""
    try:
        segment.recover()
    except OSError as error:
        if error.errno in OURS:
            raise
        own_files.set_aside(segment.path, error.strerror or str(error))
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
