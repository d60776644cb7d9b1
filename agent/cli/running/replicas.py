"""`shoal run --replicas`: several copies of a program, each a `shoal run` of its own; as many as are advised.

Laws
- A copy ends as one that is alone does: it is deregistered, then told. The last that was started goes first.
- A copy that ends by itself is started again, a little later each time. Whoever ends us ends all of them.
- Where nothing is advised, or nobody can be asked, there are as many as there were.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

import trio

from agent.cli.failure import Exit, Failure

AUTO: Final = "auto"
MOST: Final = 100
LOOK_EVERY_S: Final = 2.0
MARK: Final = "run"
"""Metadata of an instance: which of these has started it."""
ENDING: Final = (signal.SIGTERM, signal.SIGINT)
PASSED_ON: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
AGAIN_S: Final = (1.0, 2.0, 5.0, 10.0)
"""After how long a copy is started again that ended by itself, the first time and so on."""


def number_of(text: str) -> int:
    """Of `--replicas`; 0: as many as are advised. Raises Failure."""
    if text == AUTO:
        return 0
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST:
        return int(text)
    raise Failure(f"--replicas {text[:40]!r} is neither auto nor a number from 1 to {MOST}", Exit.USAGE)


def command_of(words: Sequence[str], mark: str) -> list[str]:
    """What starts one copy. `words`: what started us, the interpreter's among them.

    >>> command_of(["shoal", "run", "--service", "pets", "--replicas", "auto", "--", "x", "--replicas", "9"], "ab")
    ['shoal', 'run', '--service', 'pets', '--metadata', 'run=ab', '--', 'x', '--replicas', '9']
    """
    at = list(words).index("--") if "--" in words else len(words)
    ours: list[str] = []
    rest = iter(words[:at])
    for word in rest:
        if word == "--replicas":
            next(rest, None)
        elif not word.startswith("--replicas="):
            ours.append(word)
    return [*ours, "--metadata", f"{MARK}={mark}", *words[at:]]


class Replicas:
    """All copies."""

    def __init__(
        self, command: Sequence[str], count: int, wanted: Callable[[], int | None], note: Callable[[str], None]
    ) -> None:
        """`count`: at first. `wanted`: how many there are to be now, asked in a thread; None: as many as there are."""
        self._command = list(command)
        self._wanted = wanted
        self._note = note
        self.count = max(1, count)
        self._copies: dict[int, trio.Process] = {}
        """By number."""
        self._told: set[int] = set()
        """Processes that were told to end: once, since a second time would have the program end at once."""
        self._ending = False
        self._changed = trio.Event()

    async def live(self) -> int:
        """Until we are told to end; the exit code."""
        with trio.open_signal_receiver(*ENDING, *PASSED_ON) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._keep_all, nursery)
                async for number in signals:
                    if number in ENDING:
                        break
                    self._tell(number)
                self._ending = True
                for copy in self._copies.values():
                    self._end(copy)
                self._change()
                while self._copies:
                    await self._until_changed()
                nursery.cancel_scope.cancel()
        return 0

    def _tell(self, number: int) -> None:
        for copy in self._copies.values():
            copy.send_signal(number)

    def _end(self, copy: trio.Process) -> None:
        if copy.pid not in self._told:
            self._told.add(copy.pid)
            copy.send_signal(signal.SIGTERM)

    async def _follow(self) -> None:
        while True:
            wanted = await trio.to_thread.run_sync(self._wanted, abandon_on_cancel=True)
            if wanted is not None and max(1, min(MOST, wanted)) != self.count:
                self._note(f"shoal run: {max(1, min(MOST, wanted))} copies in place of {self.count}")
                self.count = max(1, min(MOST, wanted))
                self._change()
            await trio.sleep(LOOK_EVERY_S)

    async def _keep_all(self, nursery: trio.Nursery) -> None:
        started: set[int] = set()
        while not self._ending:
            for number in range(self.count):
                if number not in started:
                    started.add(number)
                    nursery.start_soon(self._keep, number, started)
            for number, copy in self._copies.items():
                if number >= self.count:
                    self._end(copy)
            await self._until_changed()

    async def _keep(self, number: int, started: set[int]) -> None:
        failed = 0
        while number < self.count and not self._ending:
            began = trio.current_time()
            try:
                code = await self._run(number)
            except OSError as error:  # no process to be had, or no memory: the others live on
                why = f"a copy cannot be started ({error.strerror or error})"
            else:
                why = f"a copy ended by itself ({code})"
            if number < self.count and not self._ending:
                failed = 0 if trio.current_time() - began > 60 else failed + 1
                again_s = AGAIN_S[min(failed, len(AGAIN_S)) - 1] if failed else AGAIN_S[0]
                self._note(f"shoal run: {why}, and is started again in {again_s:g} s")
                with trio.move_on_after(again_s):
                    while number < self.count and not self._ending:
                        await self._until_changed()
        started.discard(number)
        self._change()

    async def _run(self, number: int) -> int:
        """One copy, to its end; its exit code. Raises OSError where it cannot be started."""
        # A session of its own: Ctrl-C reaches us alone.
        copy = await trio.lowlevel.open_process(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._copies[number] = copy
        if self._ending or number >= self.count:
            self._end(copy)
        try:
            return await copy.wait()
        finally:
            if copy.returncode is None:
                copy.terminate()
            del self._copies[number]
            self._told.discard(copy.pid)

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _until_changed(self) -> None:
        await self._changed.wait()


def orig_command(mark: str) -> list[str]:
    """What starts one copy of what we are."""
    return command_of([sys.executable, *sys.orig_argv[1:]], mark)
