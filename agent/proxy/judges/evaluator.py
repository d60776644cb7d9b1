# mypyc: interpreted, because it speaks to a process, by a task of its own
"""Rego is evaluated in a process of the worker's own, which it starts when a document needs it, and starts anew when it
ends.

Laws
- Nothing of the library is in the worker: what a document does to it costs that document, and others a moment.
- Questions are taken by turns, document by document, a few at a time: one that is slow holds up few others.
- Who ends the evaluator is to blame (it answers in the order of the questions): he is not answered, and his document is
  not asked for a while, twice as long each time. All others are asked again.
- What is loaded is bounded; what was asked least recently goes first.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import time
from collections import OrderedDict, deque
from typing import Final

import trio

from agent.proxy.judges.judges import Judges
from agent.proxy.judges.question import Asker, Question
from agent.rego import proving
from agent.rego.words import ANSWER_S, MEMORY, MISSING, Answered, Ask, Load, Loaded, Reader, Said, Unload, encode
from policies.kinds.authz.input import untold
from policies.kinds.authz.judge import Judge

log = logging.getLogger("shoal.worker")

MOST_SENT: Final = 4
"""Words that the evaluator has not answered yet."""
MOST_LOADED: Final = 64
STALLED_S: Final = 5.0
"""After so long by the clock without a word it is ended, while it is not compiling; it counts its processor time
itself."""
COMPILING_S: Final = 120.0
IDLE_S: Final = 900.0
LONGEST_HOLD_S: Final = 30.0
ENDED: Final = f"it took more than it may ({ANSWER_S:g} s of processor time, {MEMORY >> 20} MB), or broke the evaluator"


class Program:
    """What is known of one document's modules."""

    def __init__(self, number: int, judge: Judge) -> None:
        self.number = number
        self.judge = judge
        self.loaded = False
        self.loading = False
        self.broken = ""
        """Why it never will be."""
        self.strikes = 0
        self.held_until = 0.0
        """Nobody is asked before (monotonic)."""
        self.waiting: deque[Question] = deque()
        self.learning: list[Question] = []
        """Questions that want to know what has to be told."""


class Evaluator:
    """The process, and what is asked of it."""

    def __init__(self, judges: Judges) -> None:
        self._judges = judges
        judges.rego = Asker(self.hindrance, self.send, self.forget, self.prepare)
        self._programs: OrderedDict[int, Program] = OrderedDict()
        """Those that are loaded, by when they were asked last; and all that somebody waits for."""
        self._number = 0
        self._turns: deque[Program] = deque()
        """Programs that have something to ask, in the order of their turns."""
        self._sent: deque[tuple[Program, Question | None]] = deque()
        """In the order in which they will be answered; without a question: compile it."""
        self._since = 0.0
        """When the first of them became the first (monotonic)."""
        self._wake = trio.Event()
        self._process: subprocess.Popen[bytes] | None = None

    # What judges ask.

    def program(self, judge: Judge) -> Program:
        """Of a judge."""
        found = judge.target
        if not isinstance(found, Program):
            self._number += 1
            found = judge.target = Program(self._number, judge)
        return found

    def prepare(self, judge: Judge) -> None:
        """It will be asked: have it compiled."""
        program = self.program(judge)
        if not (program.loaded or program.loading or program.broken):
            self._want(program)

    def hindrance(self, judge: Judge, now: float) -> str:
        """Why he is not even asked now."""
        program = self.program(judge)
        if program.broken:
            return program.broken
        if program.held_until > now:
            return f"{ENDED}; asked again in {program.held_until - now:.1f} s"
        return ""

    def send(self, question: Question) -> None:
        """Ask, when it has its turn."""
        program = self.program(question.judge)
        if question.asked is None:
            program.learning.append(question)
            if program.loaded:
                self._learnt(program)
                return
        else:
            wrong = untold(question.told())
            if wrong:
                question.fail(
                    f"{wrong} has a quote, a backslash or a control character, which Rego cannot be told here"
                )
                return
            program.waiting.append(question)
        self._want(program)

    def forget(self, question: Question) -> None:
        """It is over: it is passed over when it has its turn."""

    def _want(self, program: Program) -> None:
        if program not in self._turns:
            self._turns.append(program)
        self._wake.set()

    # The process.

    async def run(self) -> None:
        """As long as the worker lives."""
        pause_s = 0.1
        while True:
            await self._woken()
            if not proving.installed():
                self._give_up(MISSING)
                continue
            began = time.monotonic()
            try:
                wire, self._process = await trio.to_thread.run_sync(proving.begin)
            except OSError as error:
                self._give_up(f"no evaluator can be started: {error}")
                await trio.sleep(1.0)
                continue
            self._judges.started += 1
            stalled, ended_by = False, 0
            try:
                stalled = await self._serve(wire)
            finally:
                with trio.CancelScope(shield=True):
                    ended_by = await self._end()
            self._blame(by_others=ended_by == -signal.SIGKILL and not stalled)
            if time.monotonic() - began > 10:
                pause_s = 0.1
            elif self._turns:
                await trio.sleep(pause_s)
                pause_s = min(5.0, pause_s * 2)

    async def _woken(self) -> None:
        while not self._turns:
            self._wake = trio.Event()
            await self._wake.wait()

    async def _serve(self, wire: socket.socket) -> bool:
        """Until it ends, or nobody has asked for a while; or stands still: then True."""
        stalled = False
        wire.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(wire))
        async with stream, trio.open_nursery() as nursery:

            async def write() -> None:
                while True:
                    data = self._next()
                    if data:
                        try:
                            await stream.send_all(data)
                        except trio.BrokenResourceError:
                            return  # who reads hears of it
                        continue
                    self._wake = trio.Event()
                    with trio.move_on_after(IDLE_S) as idle:
                        await self._wake.wait()
                    if idle.cancelled_caught and not self._sent:
                        nursery.cancel_scope.cancel()

            async def watch() -> None:
                nonlocal stalled
                while True:
                    await trio.sleep(0.5)
                    if self._sent:
                        first = self._sent[0]
                        allowed_s = COMPILING_S if first[1] is None else STALLED_S
                        if time.monotonic() - self._since > allowed_s:
                            stalled = True
                            nursery.cancel_scope.cancel()

            nursery.start_soon(write)
            nursery.start_soon(watch)
            reader = Reader(Said)
            try:
                while data := await stream.receive_some(1024 * 1024):
                    for word in reader.feed(data):
                        self._take(word)
            except (trio.BrokenResourceError, ValueError):
                pass
            nursery.cancel_scope.cancel()
        return stalled

    async def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        return await trio.to_thread.run_sync(proving.ended, process)

    # Words.

    def _next(self) -> bytes:
        """What is said next; empty: nothing, for now."""
        while self._turns and len(self._sent) < MOST_SENT:
            program = self._turns.popleft()
            if program.broken:
                self._fail(program, program.broken)
                continue
            if not program.loaded:
                if not program.loading:
                    return self._load(program)
                continue  # its turn comes with its answer
            while program.waiting and program.waiting[0].over:
                program.waiting.popleft()
            if not program.waiting:
                continue
            question = program.waiting.popleft()
            if program.waiting:
                self._turns.append(program)
            if program.number in self._programs:
                self._programs.move_to_end(program.number)
            return self._say(program, question, Ask(question.number, program.number, question.told()))
        return b""

    def _load(self, program: Program) -> bytes:
        program.loading = True
        judge = program.judge
        unloaded = b""
        self._programs[program.number] = program
        if len(self._programs) > MOST_LOADED:
            _, oldest = self._programs.popitem(last=False)
            oldest.loaded = False
            unloaded = encode(Unload(oldest.number))
        return unloaded + self._say(program, None, Load(program.number, judge.modules, judge.data, judge.query))

    def _say(self, program: Program, question: Question | None, word: Load | Ask) -> bytes:
        if not self._sent:
            self._since = time.monotonic()
        self._sent.append((program, question))
        return encode(word)

    def _take(self, word: Said) -> None:
        program, question = self._sent.popleft()
        self._since = time.monotonic()
        self._wake.set()
        if isinstance(word, Answered):
            program.strikes = 0
            if question is None or question.over:
                return
            if word.failed:
                question.fail(word.reason)
            else:
                question.say(word.allows, word.reason)
            return
        self._loaded(program, word)

    def _loaded(self, program: Program, word: Loaded) -> None:
        program.loading = False
        if word.passing:
            self._hold(program)
            self._fail(program, f"{word.reason}; asked again in a moment")
            return
        if word.reason:
            program.broken = f"it does not compile here: {word.path}: {word.reason}"
            log.error("policies/authz/%s: %s", program.judge.key, program.broken)
            self._fail(program, program.broken)
            return
        program.loaded = program.number in self._programs
        program.judge.learn(word.reads, word.timed)
        self._learnt(program)
        if program.waiting:  # at once: by its next turn others may be loaded in its place
            if program in self._turns:
                self._turns.remove(program)
            self._turns.appendleft(program)

    def _learnt(self, program: Program) -> None:
        learning, program.learning = program.learning, []
        for question in learning:
            question.learnt()

    # What goes wrong.

    def _blame(self, *, by_others: bool) -> None:
        """Whose turn it was has ended it, unless somebody else has; the others are asked anew."""
        sent, self._sent = self._sent, deque()
        for program in self._programs.values():
            program.loaded = program.loading = False
        self._programs.clear()
        for n, (program, question) in enumerate(sent):
            innocent = n > 0 or (by_others and question is not None and question.tries == 0)
            if question is not None and innocent:
                question.tries += not n
                program.waiting.appendleft(question)
                self._want(program)
            elif innocent:
                self._want(program)
            else:
                self._strike(program, question)

    def _strike(self, program: Program, question: Question | None) -> None:
        program.strikes += 1
        log.warning("policies/authz/%s: %s", program.judge.key, ENDED)
        if question is None and program.strikes > 2:
            program.broken = ENDED
            self._fail(program, ENDED)
            return
        if question is not None:
            self._hold(program)
            question.fail(ENDED)
            self._fail(program, ENDED)
        else:
            self._want(program)

    def _hold(self, program: Program) -> None:
        program.held_until = time.monotonic() + min(LONGEST_HOLD_S, 0.5 * 2 ** min(program.strikes, 10))

    def _fail(self, program: Program, reason: str) -> None:
        """All that wait for it."""
        waiting = [*program.learning, *program.waiting]
        program.learning.clear()
        program.waiting.clear()
        for question in waiting:
            question.fail(reason)

    def _give_up(self, reason: str) -> None:
        while self._turns:
            self._fail(self._turns.popleft(), reason)
