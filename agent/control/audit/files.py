"""The folder of an audit log: which segments there are, and how they are read and rewritten. Called in threads.

    000000000001.jsonl     a segment that is closed, named after its first record
    000000000482.open      the one that is written to
    heads.jsonl            heads of this log, as `agent.audit.heads` has them
    certificates/<sha256>.pem   whoever has signed, with what leads to a root
    witnessed/<host>.jsonl      heads of others that were countersigned here
    copies/<host>/              closed segments of others, packed

Laws
- Nobody else may write here, and no name in it is followed elsewhere.
- What is rewritten is written aside and renamed: a crash leaves one of both, whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.audit.record import MAX_LINE, Record, line, parsed

CLOSED: Final = ".jsonl"
OPEN: Final = ".open"
COPIES: Final = "copies"
WITNESSED: Final = "witnessed"
CERTIFICATES: Final = "certificates"
HEADS: Final = "heads.jsonl"
MOST_HEADS: Final = 4000
"""Of one log, in one file; then the older half goes."""


def name_of(first: int) -> str:
    """Of the segment that begins with a record."""
    return f"{first:012d}"


def is_segment(path: Path, *endings: str) -> bool:
    """Whether a file is called as a segment is."""
    return path.name[:12].isdigit() and path.name[12:] in endings


def segments(folder: Path) -> list[Path]:
    """All of a log, in order; none where there is no folder. Raises OSError."""
    try:
        return sorted(path for path in folder.iterdir() if is_segment(path, CLOSED, OPEN))
    except FileNotFoundError:
        return []


def opened(path: Path) -> int:
    """A descriptor for reading. Raises OSError, also for a link and for what is no file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "it is no file", str(path))
    return fd


def lines(path: Path) -> Iterator[bytes]:
    """Of a file, each with its end; what is longer than a line may be comes in pieces. Raises OSError."""
    with open(opened(path), "rb") as file:
        while text := file.readline(MAX_LINE + 1):
            yield text


def rewrite(path: Path, change: Callable[[Record], Record]) -> int:
    """Change records of a closed segment; how many were changed. What is no record stays as it is. Raises OSError."""
    changed = 0
    written: list[bytes] = []
    for text in lines(path):
        record = parsed(text)
        if not isinstance(record, str):
            other = change(record)
            if other is not record:
                changed += 1
                text = line(other)
        written.append(text)
    if changed:
        replace(path, b"".join(written))
    return changed


def replace(path: Path, data: bytes) -> None:
    """A file as a whole. Raises OSError."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, text: bytes) -> None:
    """A line at the end of a small file, on disk when this returns; of too many lines the older half goes. Raises
    OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = list(lines(path)) if path.exists() else []
    if len(known) >= MOST_HEADS or (known and not known[-1].endswith(b"\n")):
        whole = [each for each in known if each.endswith(b"\n")]
        replace(path, b"".join([*whole[-MOST_HEADS // 2 :], text]))
        return
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        file.write(text)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Names in it are on disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
