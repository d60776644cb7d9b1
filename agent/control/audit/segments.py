"""Writes the segments of one host's audit log. Called in threads, by one at a time (`AuditLog`).

Laws
- A record is there whole or not at all: of one that did not fit nothing stays, and the chain goes on behind the last
  that is whole. Where nothing can be taken back, nothing more is written until it can.
- What was said to be on disk is synced. After a crash at most what was not said is lost; a piece of a line at the end
  is taken off, and the log tells of it.
- A file that is damaged stays as it is, for whoever looks into it: the log goes on in another one, behind the last
  record that can be read.
- A file that somebody took away is no reason to begin anew: numbers and hashes go on, so that it shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.audit.record import BEGUN, MAX_LINE, SEALED, Chance, Draft, Position, Record, line, made, parsed
from agent.control.audit import files

RECOVERED: Final = "audit.recovered"
FORM: Final = 1
"""Of records and segments, as this version writes them."""


class Written(NamedTuple):
    """What became of drafts."""

    records: int
    """So many of them are there, the first ones."""
    reason: str
    """Why not all are, or why it is not certain that they are on disk; empty: they are."""
    texts: Sequence[bytes] = ()
    """Their lines."""
    durable: bool = False
    """Whether these are on disk."""


class Segments:
    """Of one log."""

    def __init__(self, folder: Path, host: str, about: Mapping[str, Any], clock: Callable[[], float], chance: Chance):
        """`about`: what the beginning of each segment tells besides."""
        self.folder = folder
        self.host = host
        self.about = dict(about)
        self.position = Position()
        self.size = 0
        """Bytes in the open segment."""
        self.count = 0
        """Records in it."""
        self.began = 0.0
        """When its first was written; 0: there is none."""
        self.certificate = ""
        """By which heads are signed now; empty: nothing is proven here."""
        self._clock = clock
        self._chance = chance
        self._path: Path | None = None
        self._fd = -1
        self._torn = False
        """Whether there is something behind the last whole record, which could not be taken off."""

    def open(self) -> None:
        """Find the end of what there is. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = files.segments(self.folder)
        unclosed = [path for path in known if path.suffix == files.OPEN]
        for path in unclosed[:-1] if unclosed and unclosed[-1] is known[-1] else unclosed:
            os.rename(path, path.with_suffix(files.CLOSED))
        known = files.segments(self.folder)
        told: dict[str, Any] = {}
        for path in reversed(known):
            found = self._recovered(path, told)
            if found is not None:
                break
        if told:
            self.append([Draft(RECOVERED, self._clock(), told)], sync=True)

    def _recovered(self, path: Path, told: dict[str, Any]) -> Position | None:
        """Go on behind the last record of a file; None: there is none in it."""
        count, last, size, good = 0, None, 0, True
        for text in files.lines(path):
            if not text.endswith(b"\n") and len(text) <= MAX_LINE:
                if path.suffix == files.OPEN:
                    os.truncate(path, size)
                told["torn_bytes"] = len(text)
                break
            size += len(text)
            record = parsed(text)
            if isinstance(record, str):
                good = False
                continue
            last, good, count = record, True, count + 1
        if last is None:
            if path.suffix == files.OPEN:
                self._set_aside(path, told, "there is no record in it")
            return None
        self.position = last.position
        if path.suffix != files.OPEN:
            return last.position
        if not good or last.event == SEALED:
            if not good:
                told["damaged"] = path.name
            os.rename(path, path.with_suffix(files.CLOSED))
            return last.position
        self._path, self.size, self.count, self.began = path, size, count, self._clock()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        return last.position

    def _set_aside(self, path: Path, told: dict[str, Any], reason: str) -> None:
        if path.stat().st_size:
            os.rename(path, path.with_name(f"{path.name}.damaged"))
            told["damaged"] = f"{path.name}: {reason}"
        else:
            path.unlink()

    # Writing.

    def append(self, drafts: Sequence[Draft], *, sync: bool) -> Written:
        """Write them behind one another; `sync`: and have them on disk."""
        try:
            self._mend()
            if self._fd < 0 or not self._stands():
                self._begin()
        except OSError as error:
            return Written(0, error.strerror or str(error))
        return self._append(drafts, sync=sync)

    def _append(self, drafts: Sequence[Draft], *, sync: bool) -> Written:
        records: list[Record] = []
        behind = self.position
        for draft in drafts:
            record = made(draft, self.host, behind, self._chance)
            behind = record.position
            records.append(record)
        texts = [line(record) for record in records]
        at, reason = self._write(b"".join(texts))
        whole = 0
        for text in texts:
            if at < len(text):
                break
            at -= len(text)
            whole += 1
        if whole:
            self.position = records[whole - 1].position
            self.size += sum(map(len, texts[:whole]))
            self.count += whole
        if at:
            self._torn = True
            try:
                self._mend()
            except OSError as error:
                reason = f"{reason}; and what was begun could not be taken back: {error.strerror}"
        durable = False
        if sync and whole:
            unsynced = self.sync()
            durable, reason = not unsynced, reason or unsynced
        return Written(whole, reason, texts[:whole], durable)

    def _write(self, data: bytes) -> tuple[int, str]:
        """How many bytes were written, and why not all."""
        at = 0
        try:
            while at < len(data):
                at += os.write(self._fd, memoryview(data)[at:])
        except OSError as error:
            return at, error.strerror or str(error)
        return at, ""

    def sync(self) -> str:
        """Have all that was written on disk; why it is not certain that it is."""
        if self._fd < 0:
            return ""
        try:
            os.fsync(self._fd)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def _mend(self) -> None:
        """Take off what stands behind the last whole record. Raises OSError."""
        if self._torn and self._fd >= 0:
            os.ftruncate(self._fd, self.size)
        self._torn = False

    def _stands(self) -> bool:
        """Whether the file that is written to is still there."""
        try:
            return self._path is not None and os.path.samestat(os.fstat(self._fd), os.lstat(self._path))
        except OSError:
            return False

    def _begin(self) -> None:
        """Another segment. Raises OSError."""
        self._let_go()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{files.name_of(self.position.n + 1)}{files.OPEN}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._path, self.size, self.count, self.began, self._torn = path, 0, 0, self._clock(), False
        data = {**self.about, "form": FORM, "before": self.position.hash, "certificate": self.certificate}
        written = self._append([Draft(BEGUN, self.began, data)], sync=False)
        if written.reason or not written.records:
            self._let_go()
            path.unlink(missing_ok=True)
            raise OSError(0, written.reason)
        files.sync_folder(self.folder)

    def seal(self) -> Path | None:
        """Close the open segment; None: there is none, or it could not be closed, and goes on."""
        if self._fd < 0 or self._path is None or not self._stands():
            return None
        written = self.append([Draft(SEALED, self._clock(), {"records": self.count + 1})], sync=True)
        if not written.records or self._path is None:
            return None
        closed = self._path.with_suffix(files.CLOSED)
        try:
            os.rename(self._path, closed)
            files.sync_folder(self.folder)
        except OSError:
            return None  # closed it is; its name is given when the log is opened
        finally:
            self._let_go()
        return closed

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._path, self.size, self.count, self.began = -1, None, 0, 0, 0.0

    def close(self) -> None:
        """The agent stops: the segment stays open."""
        self.sync()
        self._let_go()
