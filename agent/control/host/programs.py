"""The programs that checks and webhooks run: one way to run any, with nothing of ours in it and bounds on everything.

Laws
- A program inherits nothing of the agent's but the right to run: an environment made for it, `/` to stand in, no
  descriptor but its own three, and another user's rights where the settings name one (`programs.user`).
- Bounds stand before its first instruction: memory, files, CPU; here its time and what it says are bounded. They are
  set by a shell that becomes the program, because nothing may run between fork and exec in a process that has
  threads.
- It ends whole: what it left running is killed, in a group or a session of its own too. Each process carries a mark
  of the run in its environment, by which those are found that hid from their parent.
- What it says is for the log of this host. Who asked for it to be run is told how it ended, and not a word more: it
  may have read what the asker must not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
import trio

from agent.accounts import find_account, own_name
from agent.process.descriptors import OURS

KEPT_BYTES: Final = 4096
"""Of what it says, for the log."""
MAX_OUTPUT_BYTES: Final = 1024 * 1024
"""Who says more is ended: reading it would be work of the program's choosing."""
LAST_WORDS_S: Final = 0.2
MARK: Final = "SHOAL_PROGRAM"
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_FILES: Final = 256
MAX_PROCESSES: Final = 256
"""Of a user of their own; for the agent's own user the agent would be counted too."""
RESERVED_BYTES: Final = 4 << 30
"""Addresses beyond `max_memory` that may be reserved: many a runtime reserves what it never touches."""
_LIMITED: Final = """
while [ "$1" != -- ]; do ulimit "-$1" "$2" 2>/dev/null; shift 2; done
shift; exec "$@"
"""
log = structlog.get_logger()


class Ended(NamedTuple):
    """How a program ended."""

    name: str
    status: int

    def __str__(self) -> str:
        return f"{self.name} ended with {self.status}"


class Failure(NamedTuple):
    """Why it did not come to an end of its own."""

    reason: str
    ours: bool = False
    """It was not begun, since this host has no descriptor, no memory or no process for it."""


class Programs:
    """Runs them."""

    def __init__(self, user: str = "", max_memory_bytes: int = 0) -> None:
        """`max_memory_bytes` 0: no limit. Raises ValueError for a user that is none."""
        self._account = find_account(user) if user else None
        self._max_memory_bytes = max_memory_bytes

    @property
    def user(self) -> str:
        """Whom they run as."""
        return self._account.name if self._account is not None else own_name()

    async def run(
        self, argv: Sequence[str], environ: Mapping[str, str], timeout_s: float, stdin: bytes = b""
    ) -> Ended | Failure:
        """Run one, to its end or the end of its time. Nothing of it is left then."""
        name = argv[0]
        path = shutil.which(name, path=os.defpath)
        if path is None:
            return Failure(f"{name}: no program that can be run")
        mark = secrets.token_hex(16)
        clean = {"PATH": os.defpath, "LANG": "C.UTF-8", **environ, MARK: mark}
        try:
            process = await self._open([path, *argv[1:]], clean, timeout_s)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            ours = getattr(error, "errno", None) in {*OURS, errno.EAGAIN}
            return Failure(f"{name}: {getattr(error, 'strerror', None) or 'cannot be run'}", ours)
        said = await _Outcome(process, stdin, mark).wait(timeout_s)
        return self._told(name, process, said, timeout_s)

    def _told(self, name: str, process: trio.Process, said: _Said, timeout_s: float) -> Ended | Failure:
        if said.text:
            log.info("a program said", program=name, ended=process.returncode, said=_one_line(said.text))
        if said.too_much:
            return Failure(f"{name} said more than {MAX_OUTPUT_BYTES} bytes, and was ended")
        if said.too_late:
            return Failure(f"{name} did not end within {timeout_s:g} s")
        assert process.returncode is not None
        return Ended(name, process.returncode)

    async def _open(self, argv: list[str], environ: dict[str, str], timeout_s: float) -> trio.Process:
        limits = [word for flag, value in self._limits(timeout_s) for word in (flag, str(value))]
        account = self._account
        more: dict[str, Any] = {}
        if account is not None and account.uid != os.geteuid():
            more = {"user": account.uid, "group": account.gid, "extra_groups": list(account.groups)}
        process: trio.Process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", _LIMITED, "sh", *limits, "--", *argv],
            env=environ,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            **more,
        )
        return process

    def _limits(self, timeout_s: float) -> Iterator[tuple[str, int]]:
        """Flags of `ulimit`, and values in its units; never above what we have ourselves."""
        yield "c", 0
        yield "f", _at_most(MAX_FILE_BYTES, resource.RLIMIT_FSIZE) // 512
        yield "n", _at_most(MAX_FILES, resource.RLIMIT_NOFILE)
        yield "t", _at_most(int(timeout_s) + 1, resource.RLIMIT_CPU)
        if self._max_memory_bytes:
            yield "d", _at_most(self._max_memory_bytes, resource.RLIMIT_DATA) // 1024
            yield "v", _at_most(self._max_memory_bytes + RESERVED_BYTES, resource.RLIMIT_AS) // 1024
        if self._account is not None and self._account.uid not in (0, os.geteuid()):
            processes = _at_most(MAX_PROCESSES, resource.RLIMIT_NPROC)
            yield "p", processes  # dash
            yield "u", processes  # bash, ksh, busybox


def _at_most(wanted: int, which: int) -> int:
    _, hard = resource.getrlimit(which)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _one_line(text: bytes) -> str:
    shown = text.decode("utf-8", "backslashreplace")
    return " ".join("".join(c if c.isprintable() else " " for c in shown).split())[:1000]


class _Said(NamedTuple):
    text: bytes
    too_much: bool
    too_late: bool


class _Outcome:
    """A process, until nothing of it is left."""

    def __init__(self, process: trio.Process, stdin: bytes, mark: str) -> None:
        self._process = process
        self._stdin = stdin
        self._mark = mark
        self._text = b""
        self._count = 0

    async def wait(self, timeout_s: float) -> _Said:
        with trio.move_on_after(timeout_s) as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell)
                nursery.start_soon(self._listen, nursery.cancel_scope)
                try:
                    await self._process.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._end()
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, trio.current_time() + LAST_WORDS_S)
        too_much = self._count > MAX_OUTPUT_BYTES
        return _Said(self._text, too_much, limit.cancelled_caught and not too_much)

    async def _tell(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._process.stdin as stream:
                await stream.send_all(self._stdin)

    async def _listen(self, scope: trio.CancelScope) -> None:
        assert self._process.stdout is not None
        async with self._process.stdout as stream:
            while piece := await stream.receive_some(64 * 1024):
                self._count += len(piece)
                self._text = (self._text + piece)[:KEPT_BYTES]
                if self._count > MAX_OUTPUT_BYTES:
                    scope.cancel()
                    return

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        with contextlib.suppress(OSError):  # no descriptor to look with: its session was killed
            await trio.to_thread.run_sync(_kill_rest, self._process.pid, self._mark)


def _kill_rest(session: int, mark: str) -> None:
    """Kill what is left of a run; a few times, since what is being killed may fork meanwhile."""
    for _ in range(20):
        left = list(_left(session, f"{MARK}={mark}".encode()))
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return


def _left(session: int, mark: bytes) -> Iterator[int]:
    """Processes of a session, or with the mark, that are not dead."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, of = _stat(entry.path)
            if state != "Z" and (of == session or mark in Path(entry.path, "environ").read_bytes()):
                yield int(entry.name)
        except (OSError, ValueError, IndexError):
            continue  # it is gone, or somebody's that we have nothing to do with


def _stat(path: str) -> tuple[str, int, int, int]:
    """State, parent, group and session."""
    fields = Path(path, "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[2]), int(fields[3])
