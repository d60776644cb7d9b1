"""The programs that a run starts: where they run, what they cost, and that none of them outlives it.

Laws
- Every program is started here and ended by its own process id, whatever happens: by its context on the way out, by the
  kernel (parent-death signal) should the bench itself be killed.
- Cost is read from /proc for the whole process tree of a program: its workers and helpers count.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry.etcd.server import free_port

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
STOP_S = 15.0
START_S = 20.0
REST_S = 2.5
"""Longer than an agent waits before it tells others what it has learnt."""
MOST_REST_S = 15.0
IDLE = 0.04
"""Of one core."""


class Failed(Exception):
    """A program did not do what it was started for; the text says which, and where its log is."""


class Program:
    """One started program and everything that it starts."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self.popen.pid

    def tree(self) -> list[int]:
        """Process ids of the program and its descendants, itself first."""
        return descendants(self.pid)

    def cpu_s(self) -> dict[int, float]:
        """User and system time of each process of the tree so far, in seconds."""
        return {pid: seconds for pid in self.tree() if (seconds := cpu_s(pid)) is not None}

    def rest(self) -> None:
        """Return when it has been idle for REST_S, or after MOST_REST_S: nothing of it is then left to be done."""
        deadline = time.monotonic() + MOST_REST_S
        since, used_s = time.monotonic(), sum(self.cpu_s().values())
        while (now := time.monotonic()) < min(deadline, since + REST_S):
            time.sleep(REST_S / 10)
            more_s = sum(self.cpu_s().values())
            if more_s - used_s > IDLE * REST_S:
                since, used_s = now, more_s

    def rss_bytes(self) -> dict[int, int]:
        """Resident memory of each process of the tree."""
        return {pid: size for pid in self.tree() if (size := memory_bytes(pid, "VmRSS")) is not None}

    def forget_peak(self) -> None:
        """Let the high-water mark of resident memory begin anew."""
        for pid in self.tree():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> dict[int, int]:
        """The most that was resident at once since `forget_peak`: kept by the kernel, so nothing is missed."""
        return {pid: size for pid in self.tree() if (size := memory_bytes(pid, "VmHWM")) is not None}

    def check(self) -> None:
        """Raises Failed when the program has ended."""
        if (code := self.popen.poll()) is not None:
            raise Failed(f"{self.name} ended with {code}: {last_lines(self.log)}")


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the name, which may hold blanks: [0] is the state, proc(5)'s field 3."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def descendants(root: int) -> list[int]:
    """`root` and every process under it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) is not None:
            children.setdefault(int(stat[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_s(pid: int) -> float | None:
    """User plus system time of a process, all threads; None when it is gone."""
    stat = _stat(pid)
    return None if stat is None else (int(stat[11]) + int(stat[12])) * TICK_S


def memory_bytes(pid: int, field: str) -> int | None:
    """A field of /proc/<pid>/status that is given in kB, in bytes; None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


@contextmanager
def running(
    name: str,
    argv: Sequence[str | Path],
    log: Path,
    *,
    cpus: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> Iterator[Program]:
    """Start a program, pinned to `cpus` when some are given, and end it with everything it started."""
    wrapper = ["setpriv", "--pdeathsig", "TERM", "--"]
    if cpus:
        wrapper += ["taskset", "-c", ",".join(map(str, cpus))]
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [*wrapper, *map(str, argv)],
            stdin=stdin,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env={**os.environ, **(env or {})},
        )
    program = Program(name, popen, log)
    try:
        yield program
    finally:
        stop(program)


def stop(program: Program) -> None:
    """End a program: asked first, then made to."""
    family = {pid: began for pid in program.tree() if (began := _began(pid))}
    if program.popen.poll() is None:
        program.popen.terminate()
        try:
            program.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            program.popen.kill()
            program.popen.wait()
    for pid, began in family.items():
        if pid != program.pid and _began(pid) == began:  # outlived its parent, and is no newer process of that number
            _kill(pid)


def _began(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it is gone."""
    stat = _stat(pid)
    return "" if stat is None or stat[0] == "Z" else stat[19]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def allow_descriptors() -> None:
    """As many open files as the system lets us have: for this process and all that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_ports(count: int) -> list[int]:
    """Port numbers that nothing on loopback listens on at the moment."""
    return [free_port() for _ in range(count)]


def wait_until(what: str, done: Callable[[], bool], program: Program | None = None, timeout_s: float = START_S) -> None:
    """Ask again and again until `done()`. Raises Failed when that takes too long or the program ends."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if program is not None:
            program.check()
        if time.monotonic() > deadline:
            tail = f": {last_lines(program.log)}" if program is not None else ""
            raise Failed(f"{what}: not within {timeout_s:.0f} s{tail}")
        time.sleep(0.02)
