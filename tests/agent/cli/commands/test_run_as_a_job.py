"""`shoal run` in a terminal, under a shell, and as process 1 of what a program leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from http.server import HTTPServer
from pathlib import Path

import pytest

from agent.cli.running.job import told
from tests.agent.cli.commands.test_run import admin, run
from tests.support.mesh import ROOT, SHOAL, until
from tests.support.proxy import refusing_port

__all__ = ["admin"]

NOTES = """
import os, signal, sys, time
def note(number, frame):
    with open(sys.argv[1], "a") as log:
        log.write(signal.Signals(number).name + "\\n")
    if number in (signal.SIGTERM, signal.SIGINT):
        sys.exit(3)
for name in sys.argv[2:]:
    signal.signal(getattr(signal, name), note)
with open(sys.argv[1], "a") as log:
    log.write(f"{os.getpid()}\\n")
while True:
    time.sleep(60)
"""
"""Notes its pid, and then each of the signals that it is told to mind."""

SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    status = os.waitpid(job, os.WUNTRACED)[1]
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        print("its foreground:", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
        sys.exit(os.waitstatus_to_exitcode(status))
    print("stopped by", signal.Signals(os.WSTOPSIG(status)).name, flush=True)
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""
"""A shell as far as jobs go: one in the foreground, which is continued there each time that it is stopped."""


class Terminal:
    """A terminal, and `shoal run` in it."""

    def __init__(self, admin: HTTPServer, *program: str, shell: bool = False) -> None:
        self.master, slave = os.openpty()
        os.set_blocking(self.master, False)
        environment = {
            **os.environ,
            "SHOAL_ADMIN": f"http://127.0.0.1:{admin.server_address[1]}",
            "SHOAL_ETCD": f"http://127.0.0.1:{refusing_port()}",
        }
        self.process = subprocess.Popen(
            [
                *((sys.executable, "-c", SHELL) if shell else ()),
                *SHOAL,
                *("run", "--service", "pets", "--etcd-timeout", "0.2", "--"),
                *program,
            ],
            cwd=ROOT,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def shows(self, text: str) -> bool:
        with suppress(BlockingIOError, OSError):  # EIO: everybody has closed it
            while piece := os.read(self.master, 65536):
                self.shown += piece.decode()
        return text in self.shown

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        os.close(self.master)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for each in made:
        each.close()


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def state(pid: int) -> str:
    """R, S, T, Z, ...; empty: there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


@pytest.mark.parametrize(
    "reads",
    [
        "print('heard', input())",
        "import termios; termios.tcsetattr(0, termios.TCSANOW, termios.tcgetattr(0)); print('heard', input())",
        "import os, time\nif not os.fork(): print('heard', input(), flush=True); os._exit(0)\nos.wait()",
    ],
)
@pytest.mark.parametrize("shell", [False, True])
def test_a_program_that_reads_the_terminal_gets_it(
    admin: HTTPServer, terminals: list[Terminal], reads: str, shell: bool
) -> None:
    """Whether it reads or sets it, or a child of its own does; and the shell has it back at the end."""
    terminal = Terminal(admin, sys.executable, "-c", reads, shell=shell)
    terminals.append(terminal)
    until("registered", lambda: terminal.shows("on port"))
    terminal.type("you\n")
    until("heard", lambda: terminal.shows("heard you"))
    assert terminal.process.wait(60) == 0
    assert "stopped" not in terminal.shown
    assert not shell or terminal.shows("its foreground: True")


def test_what_is_typed_ends_it_in_the_right_order(admin: HTTPServer, terminals: list[Terminal], tmp_path: Path) -> None:
    """Ctrl-C reaches a program that does not read the terminal only after it is deregistered."""
    log = tmp_path / "log"
    asked = admin.asked  # type: ignore[attr-defined]
    terminal = Terminal(admin, sys.executable, "-c", NOTES, str(log), "SIGINT")
    terminals.append(terminal)
    until("running", lambda: lines(log))
    admin.gate.clear()  # type: ignore[attr-defined]
    terminal.type("\x03")
    until("deregistered", lambda: asked[-1][0] == "DELETE")
    assert "SIGINT" not in lines(log)
    admin.gate.set()  # type: ignore[attr-defined]
    assert terminal.process.wait(60) == 3
    assert lines(log)[1:] == ["SIGINT"]


@pytest.mark.parametrize("reads", [False, True])
def test_ctrl_z_stops_the_job_and_the_shell_continues_it(
    admin: HTTPServer, terminals: list[Terminal], reads: bool
) -> None:
    """Both of them, wherever the terminal is just then."""
    program = "input(); print('reads', flush=True); print('heard', input())" if reads else "import time; time.sleep(60)"
    terminal = Terminal(admin, sys.executable, "-c", program, shell=True)
    terminals.append(terminal)
    until("registered", lambda: terminal.shows("on port"))
    if reads:
        terminal.type("first\n")
        until("has the terminal", lambda: terminal.shows("reads"))
    terminal.type("\x1a")
    until("stopped", lambda: terminal.shows("stopped by SIGTSTP"))
    if reads:
        terminal.type("again\n")
        until("heard", lambda: terminal.shows("heard again"))
        assert terminal.process.wait(60) == 0
    else:
        terminal.type("\x03")
        assert terminal.process.wait(60) == 130
    assert terminal.shows("its foreground: True")


STARTS = """
import os, signal, sys, threading, time
import trio
from agent.cli.running.job import started
number = getattr(signal, sys.argv[1])
async def starts():
    with trio.open_signal_receiver(number):
        threading.Thread(target=signals, daemon=True).start()
        for _ in range(100):
            await (await started(["true"], os.environ)).wait()
        os._exit(0)
def signals():
    while True:
        os.killpg(0, number)
        time.sleep(0.0005)
trio.run(starts)
"""
"""Starts programs while its own group is sent a signal all the time, as by a terminal."""


@pytest.mark.parametrize("name", ["SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGINT"])
def test_a_signal_in_the_moment_of_the_start(name: str) -> None:
    """It finds the program in our group, or in its own: neither is stopped in between."""
    process = subprocess.Popen([sys.executable, "-c", STARTS, name], cwd=ROOT, process_group=0)
    try:
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"])
def test_a_signal_that_is_the_programs_is_passed_on(admin: HTTPServer, tmp_path: Path, name: str) -> None:
    """And does not end its place in the mesh."""
    log = tmp_path / "log"
    process = run(admin, tmp_path / "stderr", sys.executable, "-c", NOTES, str(log), name, "SIGTERM")
    until("running", lambda: lines(log))
    process.send_signal(getattr(signal, name))
    until("heard", lambda: name in lines(log))
    assert all(method == "POST" for method, _ in admin.asked)  # type: ignore[attr-defined]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3


def test_what_is_stopped_can_be_continued_and_ended(admin: HTTPServer, tmp_path: Path) -> None:
    """TSTP and CONT are passed on; TERM reaches a program that is stopped."""
    log = tmp_path / "log"
    process = run(admin, tmp_path / "stderr", sys.executable, "-c", NOTES, str(log), "SIGTERM")
    until("running", lambda: lines(log))
    program = int(lines(log)[0])
    process.send_signal(signal.SIGTSTP)
    until("stopped", lambda: state(program) == "T")
    process.send_signal(signal.SIGCONT)
    until("continued", lambda: state(program) == "S")
    process.send_signal(signal.SIGTSTP)
    until("stopped", lambda: state(program) == "T")
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3


def test_a_stopped_program_hears_that_it_is_to_end(admin: HTTPServer, tmp_path: Path) -> None:
    """Somebody stopped it, and it alone."""
    log = tmp_path / "log"
    process = run(admin, tmp_path / "stderr", sys.executable, "-c", NOTES, str(log), "SIGTERM")
    until("running", lambda: lines(log))
    program = int(lines(log)[0])
    os.kill(program, signal.SIGSTOP)
    until("stopped", lambda: state(program) == "T")
    process.send_signal(signal.SIGTERM)
    assert process.wait(25) == 3


def test_what_is_ignored_stays_ignored(admin: HTTPServer, tmp_path: Path) -> None:
    """`nohup shoal run` outlives the terminal, with its program."""
    log, stderr = tmp_path / "log", tmp_path / "stderr"
    process = run(admin, stderr, sys.executable, "-c", NOTES, str(log), "SIGTERM", before=["nohup"])
    until("running", lambda: lines(log))
    process.send_signal(signal.SIGHUP)
    status = Path(f"/proc/{lines(log)[0]}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    assert ignored & 1 << signal.SIGHUP - 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3


def test_a_program_that_goes_into_the_background_is_said(admin: HTTPServer, tmp_path: Path) -> None:
    """It is in the mesh no longer, and a person learns why, and what would be right."""
    log, stderr = tmp_path / "log", tmp_path / "stderr"
    daemon = f"import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n{NOTES}"
    process = run(admin, stderr, sys.executable, "-c", daemon, str(log), "SIGTERM")
    assert process.wait(60) == 0
    until("running", lambda: lines(log))
    pid = int(lines(log)[0])
    os.kill(pid, signal.SIGKILL)
    said = stderr.read_text()
    assert "the program ended and left running: python" in said and f"({pid}). " in said
    assert "start it so that it stays in the foreground" in said


def test_a_program_that_leaves_nothing_is_not_blamed(admin: HTTPServer, tmp_path: Path) -> None:
    """What it started and what has ended is no news."""
    stderr = tmp_path / "stderr"
    process = run(admin, stderr, "/bin/sh", "-c", "(sleep 0 &) ; sleep 0.1 & wait")
    assert process.wait(60) == 0
    assert "left running" not in stderr.read_text()


def test_orphans_are_reaped(admin: HTTPServer, tmp_path: Path) -> None:
    """What the program's children leave behind ends as no zombie while the program runs."""
    log, pids = tmp_path / "log", tmp_path / "pids"
    forks = f"""
import os
for _ in range(20):
    middle = os.fork()
    if not middle:
        if not os.fork():
            with open({str(pids)!r}, "a") as notes:
                notes.write(f"{{os.getpid()}}\\n")
        os._exit(0)
    os.waitpid(middle, 0)
{NOTES}"""
    process = run(admin, tmp_path / "stderr", sys.executable, "-c", forks, str(log), "SIGTERM")
    until("all have run", lambda: len(lines(pids)) == 20 and lines(log))
    until("reaped", lambda: all(state(int(pid)) == "" for pid in lines(pids)))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3


def test_what_is_told_of_a_failed_program_blames_no_daemon() -> None:
    """It failed, and so did not just go into the background."""
    assert told(["a (1)"], 1) == "the program ended and left running: a (1), which nobody looks after"
    assert "and 2 more." in told([f"a ({n})" for n in range(7)], 0)
