"""What a program says, by way of a process that copies it and tells the agent of it (`agent.process.copying`).

Laws
- The copying process is in a session of its own and holds the pipes alone: it goes on until nobody has them, whatever
  becomes of us, and no signal of our terminal reaches it.
- Nothing of what was said is cut off by our end: we wait until it is written, as the program would have.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any, Final

import trio

from agent.process import copying
from agent.surroundings import handed_on

LAST_WORDS_S: Final = 2.0
"""For how long we wait where something that the program left behind has the pipes, or the person wants us to end."""


class Copied:
    """One program's output. `stdout` and `stderr` are for the program, and closed as soon as it has them."""

    def __init__(self, process: trio.Process, stdout: int, stderr: int) -> None:
        self._process = process
        self.stdout = stdout
        self.stderr = stderr

    @property
    def pid(self) -> int:
        """Of the process that copies."""
        return self._process.pid

    def handed_over(self) -> None:
        """The program has its ends, or there is none."""
        os.close(self.stdout)
        os.close(self.stderr)

    async def finish(self, signals: Any, *, left: bool) -> None:
        """The program has ended: wait for its last words. `signals`: any of them ends our patience; `left`: what it
        has left behind may say more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._impatient, signals, nursery.cancel_scope)
            with trio.move_on_after(LAST_WORDS_S if left else float("inf")):
                await self._process.wait()
            nursery.cancel_scope.cancel()

    async def _impatient(self, signals: Any, scope: trio.CancelScope) -> None:
        async for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                scope.cancel()


async def copied(socket: str, service: str, instance: str) -> Copied:
    """Pipes for a program that is an instance, and who copies what comes out of them. `socket`: the agent's. Raises
    OSError where there are no descriptors, or no process, to be had."""
    ends: list[int] = []
    try:
        for _ in (copying.STDOUT, copying.STDERR):
            ends += os.pipe()
        from_stdout, stdout, from_stderr, stderr = ends
        words = [sys.executable, "-I", "-S", copying.__file__, socket, service, instance]
        process = await trio.lowlevel.open_process(
            [*words, str(from_stdout), str(from_stderr)],
            stdin=subprocess.DEVNULL,
            pass_fds=(from_stdout, from_stderr),
            start_new_session=True,
            env=handed_on(os.environ),
        )
    except OSError:
        for end in ends:
            os.close(end)
        raise
    os.close(from_stdout)
    os.close(from_stderr)
    return Copied(process, stdout, stderr)
