"""Doing something as another user of this host; only root can."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
NOBODY = 65534
ALICE, BOB = 54321, 54322
"""Numbers that no user of the host has, which is enough to be somebody."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play several users")


def as_user(uid: int, do: Callable[..., T], *args: Any, groups: Sequence[int] = ()) -> T:
    """What `do` returns in a process of that user. A child without a program of its own: it needs no file."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        found: Any = None
        try:
            os.setgroups(list(groups))
            os.setgid(uid)
            os.setuid(uid)
            found = do(*args)
        except BaseException as error:
            found = AssertionError(repr(error))
        finally:
            os.write(writing, pickle.dumps(found))
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    found = pickle.loads(data)
    if isinstance(found, AssertionError):
        raise found
    return found  # type: ignore[no-any-return]
