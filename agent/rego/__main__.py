"""An evaluator: a process that compiles and evaluates Rego for the one that started it, and for nobody else.

    python -m agent.rego FD     FD: one end of a socket pair

Laws
- It is one that may be killed: the library is C++, and what is written for it comes from strangers. It holds no secret,
  no listening socket, and nothing that is not handed to it anew.
- What it may take is counted by the kernel: seconds of its own processor time for one program and for one answer, and
  memory beyond what the library has at its start. Who takes more is ended, with the process.
- It ends with the other end of its socket.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

from agent.rego.program import PREFIX, Program, folders
from agent.rego.words import ANSWER_S, LIBRARY, MEMORY, Answered, Ask, Load, Loaded, Reader, Said, Told, Unload, encode
from policies.language.plain import Flaw

PATH: Final = "$.rego"
FILE: Final = 32 * 1024 * 1024
"""Bytes that a program's plan may have."""
DESCRIPTORS: Final = 64


def confine() -> None:
    """From now on."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # whoever started it ends it
    try:
        import_module(LIBRARY)  # it reserves addresses by the hundred GB, which count as data
    except ImportError:
        pass
    (held,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:7] == "VmData:"]
    most = int(held) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this is what ends first
    except OSError:
        pass
    clear_away()
    os.nice(5)  # requests that nobody asks it about go first
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # print() of a module's, and what the library says of its errors
    os.dup2(nothing, 2)


def clear_away() -> None:
    """What evaluators have left that were ended while they wrote."""
    for folder in folders():
        for left in folder.glob(f"{PREFIX}*"):
            owner = left.name.removeprefix(PREFIX).partition("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(left, ignore_errors=True)


class Evaluator:
    """Programs, and who asks them."""

    def __init__(self) -> None:
        self._programs: dict[int, Program] = {}

    def take(self, word: Told) -> Said | None:
        """Do it, within its time; None: there is nothing to say."""
        if isinstance(word, Unload):
            self._programs.pop(word.program, None)
            return None
        allowed_s = word.allowed_s if isinstance(word, Load) else ANSWER_S
        signal.setitimer(signal.ITIMER_PROF, allowed_s)  # nobody handles SIGPROF: it ends the process
        try:
            return self._load(word) if isinstance(word, Load) else self._ask(word)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _load(self, word: Load) -> Loaded:
        self._programs.pop(word.program, None)
        try:
            program = Program(word.modules, word.data, word.query, PATH)
        except Flaw as flaw:
            return Loaded(word.program, path=flaw.path, reason=flaw.reason)
        except OSError as error:  # no room for its plan
            return Loaded(word.program, path=PATH, reason=f"it cannot be compiled now: {error}"[:300], passing=True)
        except Exception as error:  # whatever the library raises, or a plan that is none
            return Loaded(
                word.program, path=PATH, reason=f"it cannot be compiled: {type(error).__name__}: {error}"[:300]
            )
        self._programs[word.program] = program
        return Loaded(word.program, program.analysis.reads, program.analysis.timed)

    def _ask(self, word: Ask) -> Answered:
        program = self._programs.get(word.program)
        if program is None:
            return Answered(word.number, False, "it is not loaded", True)
        try:
            return Answered(word.number, *program.ask(word.input))
        except Exception as error:
            return Answered(word.number, False, f"{type(error).__name__}: {error}"[:300], True)


def main() -> None:
    """Until nobody is there any more."""
    wire = socket.socket(fileno=int(sys.argv[1]))
    confine()
    evaluator, reader = Evaluator(), Reader(Told)
    try:
        while data := wire.recv(1024 * 1024):
            for word in reader.feed(data):
                said = evaluator.take(word)
                if said is not None:
                    wire.sendall(encode(said))
    except (ConnectionError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main()
