"""A worker's process that the process before started: ours by inheritance, since a re-execution keeps its children."""

from __future__ import annotations

import os
import signal
from typing import Protocol

import trio


class Process(Protocol):
    """What is asked of a worker's process, whoever started it."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it lives."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    async def wait(self) -> int:
        """Until it has ended."""
        ...


class InheritedProcess:
    """A child that no object of this process's knows; perhaps one that has ended, and was collected."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fd = -1
        try:
            self._fd = os.pidfd_open(pid)
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except (ProcessLookupError, ChildProcessError):  # it is gone, and its number perhaps another's
            self._ended(-1)

    def _ended(self, code: int) -> None:
        self.returncode = code
        if self._fd >= 0:
            os.close(self._fd)

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            try:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself

    async def wait(self) -> int:
        """Until it has ended; collects it."""
        if self.returncode is None:
            await trio.lowlevel.wait_readable(self._fd)
            self._collect()
        assert self.returncode is not None
        return self.returncode

    def _collect(self) -> None:
        try:
            self._ended(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        except ChildProcessError:
            self._ended(-1)  # it was collected elsewhere
