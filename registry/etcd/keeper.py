"""A process that renews one lease while the one that has it is executed anew, and can renew nothing itself.

Between `exec` and the first renewal lie seconds, of which most are imports; on a busy host more than a lease has. What
is in memory ends with `exec`, threads too: who lives on is a child. It is begun before, and let go of once the
successor has renewed the lease itself.

Laws
- It is told what to renew, and where, by its standard input, which nobody else can read; and ends when that does, which
  is when the agent ends. It ends after KEEP_S in any case: who hangs must not keep a lease for ever.
- It renews, and nothing else. What becomes of a lease that is gone is `registry.lease`'s.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from registry.etcd.renewer import EtcdRenewer
from registry.etcd.store import EtcdSettings
from registry.store import LeaseGone, StoreError

KEEP_S: Final = 60.0
READY: Final = b"\n"
_AGAIN_S: Final = 0.2
_TRY_S: Final = 3.0
"""The longest that one try takes: nothing else is heard meanwhile."""
_ROOT: Final = str(Path(__file__).resolve().parents[2])


class Kept(msgspec.Struct, frozen=True):
    """A keeper at work, for who is executed next."""

    pid: int = 0
    fd: int = -1
    """Its standard input: it ends with the last who has it open."""


class _Task(msgspec.Struct, frozen=True):
    lease: int
    ttl_s: int
    settings: EtcdSettings


class Keeper:
    """The process, as who begins it sees it. Blocks: for a thread."""

    def __init__(self, settings: EtcdSettings, lease: int, ttl_s: int, environment: Mapping[str, str]) -> None:
        """Raises OSError where there can be no process."""
        path = os.pathsep.join(part for part in (_ROOT, environment.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "registry.etcd.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for who has the lease
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(_Task(lease, ttl_s, settings)) + b"\n")
            self._process.stdin.flush()
        except OSError:
            self.close()
            raise

    def wait_until_ready(self, limit_s: float) -> bool:
        """Whether it has begun to renew within the limit. It may later, unless it has ended."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], limit_s)
        return bool(readable) and self._process.stdout.read(1) == READY

    def hand_over(self) -> Kept:
        """It goes on beyond `exec`, for who is given this."""
        assert self._process.stdin is not None
        fd = os.dup(self._process.stdin.fileno())
        os.set_inheritable(fd, True)
        return Kept(self._process.pid, fd)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what it was told and did not read


def accept(kept: Kept) -> Kept:
    """What a successor does first: whom it starts is not handed the descriptor, so the keeper ends with it alone."""
    if kept.pid:
        os.set_inheritable(kept.fd, False)
    return kept


def release(kept: Kept) -> None:
    """End a keeper that was handed over. Once."""
    if not kept.pid:
        return
    os.close(kept.fd)
    try:
        os.kill(kept.pid, signal.SIGKILL)  # a child of ours: its number is nobody else's before it is collected
        os.waitpid(kept.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


# The process itself.


def _keep(task: _Task, ends: float) -> None:
    renewer = EtcdRenewer(task.settings)
    pause_s = task.ttl_s / 3
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more; all the more has to be renewed
        os.write(1, READY)
    while time.monotonic() < ends:
        began = time.monotonic()
        try:
            renewer.renew(task.lease, min(max(0.5, pause_s), _TRY_S))
            wait_s = pause_s - (time.monotonic() - began)
        except LeaseGone:
            return
        except StoreError:
            wait_s = _AGAIN_S
        if select.select([0], [], [], max(0.0, wait_s))[0]:
            return  # it says nothing more, so that is its end


def _told() -> bytes:
    """One line. Nothing comes behind it, so that its end shows on the descriptor itself."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 65536)
        if not data:
            break
        line += data
    return line


def main() -> None:
    """What `-m` runs."""
    try:
        _keep(msgspec.json.decode(_told(), type=_Task), time.monotonic() + KEEP_S)
    except (msgspec.DecodeError, OSError, ValueError):
        sys.exit(1)


if __name__ == "__main__":
    main()
