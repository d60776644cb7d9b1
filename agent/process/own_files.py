"""Files that this agent wrote for itself, read back.

Laws
- Whatever cannot be read counts as not there, whatever is in it: no file keeps an agent from starting.
- It is set aside under a name of its own, so that nothing which is written later replaces it, and said.
- What cannot be read for want of descriptors or memory is not the file's fault: it stays where it is.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from agent.process.descriptors import OURS

T = TypeVar("T")
MOST_ASIDE: Final = 9
"""Of one name; then the last one makes way."""
log = structlog.get_logger()


def read(path: Path) -> bytes:
    """A file of ours. Raises OSError, also for a link, and for what is no file: none of that was written here."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return file.read()


def read_as(path: Path, parse: Callable[[bytes], T]) -> T | None:
    """What a file of ours says; None where there is none, and where it cannot be read. `parse` raises ValueError for
    what makes no sense."""
    try:
        return parse(read(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in OURS:
            log.error("cannot read; the agent goes on without", path=str(path), error=error.strerror)
        else:
            set_aside(path, error.strerror or str(error))
    except (ValueError, RecursionError) as error:
        set_aside(path, str(error))
    return None


def set_aside(path: Path, reason: str) -> Path | None:
    """Give a file or a folder that cannot be read another name, and say so. Returns where it is then; None where it
    could not be moved, which is said too."""
    try:
        aside = _free_name(path)
        os.rename(path, aside)
    except OSError as error:
        log.error("cannot be read, nor be set aside", path=str(path), reason=reason, error=error.strerror)
        return None
    log.error("cannot be read; it counts as not there, and is set aside", path=str(path), as_=str(aside), reason=reason)
    return aside


def _free_name(path: Path) -> Path:
    """Raises OSError."""
    names = [path.with_name(f"{path.name}.unreadable-{number}") for number in range(1, MOST_ASIDE + 1)]
    for name in names:
        if not os.path.lexists(name):
            return name
    if names[-1].is_dir() and not names[-1].is_symlink():
        shutil.rmtree(names[-1])
    else:
        names[-1].unlink()
    return names[-1]
