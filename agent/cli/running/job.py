"""A program as the one job of `shoal run`: its signals, its terminal, and what it leaves behind.

Laws
- A program that never reads the terminal does not get it, so that Ctrl-C reaches us, and the program only after it is
  deregistered. One that wants it (SIGTTIN, SIGTTOU) gets it, and Ctrl-C with it, as under a shell.
- What stops the program for the terminal's sake stops us too, so that the shell hears of it; what continues us
  continues the program. Where there is no shell to continue us (a session of our own, process 1), the program goes on.
- What was ignored when we were started (`nohup`) stays so, for the program too.
- Whatever the program leaves behind becomes ours, as if we were process 1: it is reaped, and what lives on is named.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

PASSED_ON: Final = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGTSTP)
"""The program's own business, which does not end its place in the mesh: a JVM prints its threads at SIGQUIT."""
_OF_THE_TERMINAL: Final = (signal.SIGWINCH, signal.SIGTSTP)
"""A terminal sends these to all of a job's processes."""
_STOPS: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_CHILD_SUBREAPER: Final = 36


def watched() -> list[signal.Signals]:
    """The signals to be handed to `Job.take`."""
    return [each for each in PASSED_ON if signal.getsignal(each) != signal.SIG_IGN] + [signal.SIGCONT, signal.SIGCHLD]


def adopt_orphans() -> None:
    """What our children leave behind becomes our child, and not that of process 1. Linux alone knows this."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def ending(returncode: int) -> tuple[str, bool]:
    """How a program has ended, in words, and whether that is what it was told to, as far as its code says: what people
    and supervisors end programs with is."""
    if returncode < 0:
        name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else "unnamed"
        return f"was killed by signal {-returncode} ({name})", -returncode in _ENDS
    return f"ended with exit code {returncode}", returncode == 0 or returncode - 128 in _ENDS


def exit_code(error: OSError) -> int:
    """What `env`, `nohup` and shells end with where a program cannot be started."""
    return 127 if isinstance(error, FileNotFoundError) else 126


async def started(
    command: Sequence[str], environment: Mapping[str, str], stdout: int | None = None, stderr: int | None = None
) -> trio.Process:
    """A program in a process group of its own; `stdout` and `stderr`: descriptors, or None for ours. Raises OSError.

    By fork and not by vfork: that has every signal's default action in the child before it has left our group, so that
    a ^Z of that moment stops it there, and us in the middle of vfork, which nobody could end or continue any more.
    """
    subprocess._USE_VFORK = False  # type: ignore[misc]  # as Python's page of the module has it
    return await trio.lowlevel.open_process(
        list(command), env=environment, process_group=0, stdout=stdout, stderr=stderr
    )


class Job:
    """One program, in a process group of its own."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._terminal = _controlling_terminal()
        self._holds_terminal = False
        """Whether the program wanted it."""
        self._stopped = False

    def take(self, number: int) -> None:
        """Act on one of `watched`."""
        if number == signal.SIGCHLD:
            self._look()
            reap(self._process)
        elif number == signal.SIGCONT:
            self._go_on()
        elif number in _OF_THE_TERMINAL:
            self._send_to_all(number)
        else:
            self._process.send_signal(number)

    def end(self, number: int) -> None:
        """Ask the program to end; a stopped one would not hear of it."""
        self._process.send_signal(number)
        if self._stopped:
            self._go_on()

    def close(self) -> None:
        """The program has ended: the terminal goes back to our own group, for whoever reads it after us."""
        if self._terminal is None:
            return
        if self._holds_terminal and _foreground(self._terminal) == self._process.pid:
            _give(self._terminal, os.getpgrp())
        os.close(self._terminal)
        self._terminal = None

    def _look(self) -> None:
        """Whether the program was stopped, and by what."""
        with suppress(ChildProcessError):
            found = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG)
            if found is not None:
                self._on_stopped(found.si_status)

    def _on_stopped(self, number: int) -> None:
        self._stopped = True
        if self._terminal is None or number not in _STOPS:
            return  # somebody's `kill -STOP`, and it is for them to continue it
        if number != signal.SIGTSTP:
            self._holds_terminal = True
            if _foreground(self._terminal) in (os.getpgrp(), self._process.pid):
                self._go_on()
                return
        if _foreground(self._terminal) == self._process.pid:
            _give(self._terminal, os.getpgrp())
        _stop_ourselves(number)
        self._go_on()

    def _go_on(self) -> None:
        """Continue the program, with the terminal where it wants it and where it is ours to give."""
        self._stopped = False
        if self._terminal is not None and self._holds_terminal and _foreground(self._terminal) == os.getpgrp():
            _give(self._terminal, self._process.pid)
        self._send_to_all(signal.SIGCONT)

    def _send_to_all(self, number: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def reap(program: trio.Process | None = None) -> None:
    """Reap every orphan that has ended; the program itself is waited for by others."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if program is not None and ended.si_pid == program.pid:
                return
            os.waitpid(ended.si_pid, 0)


def left_behind(ours: int = 0) -> list[str]:
    """What still runs of a program that has ended: `nginx (4242)`. `ours`: a child that is none of it."""
    reap()
    return [f"{_name(pid)} ({pid})" for pid in _children() if pid != ours]


def told(left: Sequence[str], returncode: int) -> str:
    """One line for the person who started the program."""
    which = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    if returncode == 0:
        return (
            f"the program ended and left running: {which}. It is in the mesh no longer; if it put itself into the "
            "background, start it so that it stays in the foreground"
        )
    return f"the program ended and left running: {which}, which nobody looks after"


def _children() -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            if int(each.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(each.parent.name))
    return sorted(found)


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "?"


def _controlling_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR)
    except OSError:
        return None


def _foreground(terminal: int) -> int:
    """The process group that may read it; -1 where it is no longer there."""
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return -1


def _give(terminal: int, group: int) -> None:
    """From the background, too, which would stop whoever does it without the mask."""
    with _masked(signal.SIGTTOU), suppress(OSError):
        os.tcsetpgrp(terminal, group)


@contextmanager
def _masked(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_ourselves(number: int) -> None:
    """Until somebody continues us; at once, where our group has no shell that could (the kernel sees to that)."""
    handler = signal.signal(number, signal.SIG_DFL)
    try:
        # To this very thread: it is stopped before the next line, and not at some time after it.
        signal.pthread_kill(threading.get_ident(), number)
    finally:
        signal.signal(number, handler)
