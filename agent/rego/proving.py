# mypyc: interpreted, because it waits for a process, and no request for it
"""Whether the Rego of a document compiles, asked of an evaluator before the document counts. It waits for the answer:
for threads and for commands.

Laws
- The library is never loaded here: a document may end the process that reads it.
- One evaluator at a time, which goes when nobody asked for a while; one that ended is replaced, and what it ended of is
  refused.
- The same document is asked about once.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Final

import msgspec

from agent.rego.words import LIBRARY, MEMORY, MISSING, PROVE_S, Load, Loaded, Reader, Said, encode
from policies.kinds.authz.document import Authz
from policies.kinds.authz.outside import Rego
from policies.language.document import Document, Invalid

ANSWER_S: Final = 60.0
"""By the clock; of processor time it is allowed less (`agent.rego.__main__`)."""
IDLE_S: Final = 20.0
MOST_KNOWN: Final = 256
WITHIN: Final = f"{PROVE_S:g} s of processor time, {MEMORY >> 20} MB"


def installed() -> bool:
    """Whether this host has the library."""
    return find_spec(LIBRARY) is not None


def prove(kind: str, pattern: str, document: Document | Invalid) -> Document | Invalid:
    """A document that was put for a pattern; or why its Rego is refused."""
    if not isinstance(document, Authz) or document.rego is None or document.rego.bundles:
        return document  # what names bundles is asked about when it is put together with them
    if not installed():
        return Invalid(kind, pattern, "$.rego", MISSING)
    said = _PROVER.proved(document.rego)
    return Invalid(kind, pattern, said.path, said.reason) if said.reason else document


class Prover:
    """Has an evaluator, when there is something to ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wire: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: threading.Timer | None = None
        self._known: dict[bytes, Loaded] = {}

    def proved(self, rego: Rego) -> Loaded:
        """What it says of a document's Rego, or has said before."""
        said = msgspec.msgpack.encode((rego.modules, rego.data, rego.query), order="sorted")
        text = hashlib.sha256(said).digest()
        known = self._known.get(text)
        if known is None:
            known = self.ask(rego)
            if known.passing:
                known = self.ask(rego)
            if not known.passing:
                with self._lock:
                    if len(self._known) >= MOST_KNOWN:
                        del self._known[next(iter(self._known))]
                    self._known[text] = known
        return known

    def ask(self, rego: Rego) -> Loaded:
        """What it says of a document's Rego."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                said = self._ask(rego)
            except (OSError, ValueError) as error:
                killed = self._end() == -signal.SIGKILL  # by nobody's document, unless it stood still
                reason = f"it took more than compiling may take ({WITHIN}), or broke the compiler: {error}"
                return Loaded(0, path="$.rego.modules", reason=reason, passing=killed)
            self._idle = threading.Timer(IDLE_S, self._end_idle)
            self._idle.daemon = True
            self._idle.start()
            return said

    def _ask(self, rego: Rego) -> Loaded:
        wire = self._wire or self._begin()
        wire.sendall(encode(Load(0, rego.modules, rego.data, rego.query, PROVE_S)))
        reader = Reader(Said)
        while True:
            data = wire.recv(64 * 1024)
            if not data:
                raise ConnectionError("no answer")
            for word in reader.feed(data):
                if isinstance(word, Loaded):
                    return word

    def _begin(self) -> socket.socket:
        wire, process = begin()
        wire.settimeout(ANSWER_S)
        self._wire, self._process = wire, process
        return wire

    def _end_idle(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> int:
        """How it has ended."""
        wire, self._wire = self._wire, None
        process, self._process = self._process, None
        if wire is not None:
            wire.close()
        return 0 if process is None else ended(process)


def ended(process: subprocess.Popen[bytes]) -> int:
    """How one has ended, whose wire is closed; one that has not is given a moment to, and then ended."""
    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 0


def command(fd: int) -> list[str]:
    """What an evaluator is started with, at one end of a socket pair."""
    return [sys.executable, "-P", "-m", "agent.rego", str(fd)]


def begin() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start one."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            command(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
    return ours, process


def environment() -> dict[str, str]:
    """No more of ours than Python needs to find itself."""
    kept = ("PATH", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


_PROVER: Final = Prover()
