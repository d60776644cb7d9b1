"""Follows etcd for `shoal watch`, whatever etcd does, and prints what there is to tell, as quickly as it is read."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import trio

from agent.cli.failure import Exit, Failure
from agent.cli.printing import Printer
from agent.cli.watching.following import Following
from agent.cli.watching.judging import Judges
from agent.cli.watching.line import Line
from agent.cli.watching.selection import Selection
from agent.findings.of_mesh.enforcing import ROOMS
from registry.census import take
from registry.keys import Keys, Room
from registry.mirror import Mirror, Update
from registry.store import Refused, Store, StoreError

if TYPE_CHECKING:
    from registry.mirror import MirrorState

LOOK_S: Final = 0.1
"""Between two looks for what is to be printed."""
VERSIONS_S: Final = 10.0
"""Between two looks at what agents know, at least, while agents come."""


class Watching:
    """One watch, until it ends itself or is cancelled."""

    def __init__(self, store: Store, mesh: str, selection: Selection, printer: Printer) -> None:
        self._store = store
        self._mesh = mesh
        self._printer = printer
        self._judges = Judges()
        self._following = Following(mesh, selection, self._judges.judge)
        keys = Keys(mesh)
        self._agents = keys.room(Room.AGENTS)
        self._mirror = Mirror(store, keys.room(Room.ACKS), keys.watched[1], self._hear)
        self._agents_changed = True
        self._away = ""

    async def run(self, *, once: bool, for_s: float) -> bool | None:
        """Until `for_s` seconds are over (0: for ever), or, with `once`, until it is known what became of what came
        first: whether it is in force everywhere; None: that is not known. Raises Failure when etcd cannot be asked at
        the beginning."""
        failed: list[BaseException] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._mirror.run)
                nursery.start_soon(self._look_at_versions)
                try:
                    await self._tell(once, trio.current_time() + (for_s or math.inf))
                    await self._print(all_of_it=True)
                except (Failure, BrokenPipeError, KeyboardInterrupt) as error:
                    failed.append(error)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is None:
                raise
            failed = [KeyboardInterrupt()]  # it came to one of the others
        if failed:
            raise failed[0] from None
        return self._following.ended

    def _hear(self, update: Update) -> None:
        self._agents_changed |= any(change.key.startswith(self._agents) for change in update.changes)
        self._following.hear(update, time.time(), time.monotonic())

    async def _tell(self, once: bool, until: float) -> None:
        """No line is cut off in the middle by the end of time."""
        while trio.current_time() < until and not (once and self._following.ended is not None):
            self._note_absence(self._mirror.state)
            await self._print()
            await trio.sleep(LOOK_S)

    def _note_absence(self, state: MirrorState) -> None:
        if state.error and not self._following.begun:
            raise Failure(
                f"etcd cannot be asked: {state.error}; see --etcd, --etcd-user and --etcd-cert", Exit.UNREACHABLE
            )
        if state.error and not self._away:
            text = f"etcd does not answer ({state.error}); asking again, and going on from there"
            self._following.say(text, time.time(), time.monotonic(), away=True)
        elif self._away and not state.error:
            self._following.say("etcd answers again", time.time(), time.monotonic(), away=False)
        self._away = state.error

    async def _print(self, *, all_of_it: bool = False) -> None:
        lines = self._following.take(time.time(), time.monotonic(), all_of_it=all_of_it)
        if lines:
            await trio.to_thread.run_sync(_printed, self._printer, lines, abandon_on_cancel=True)

    async def _look_at_versions(self) -> None:
        """What agents know is no part of what is watched: it is read when agents have come, and only then."""
        while True:
            if self._agents_changed:
                self._agents_changed = False
                try:
                    self._judges.know(await take(self._store, self._mesh, *ROOMS))
                except Refused:
                    return  # the person may not read it: agents' own word has to do
                except StoreError:
                    self._agents_changed = True
            await trio.sleep(VERSIONS_S)


def _printed(printer: Printer, lines: list[Line]) -> None:
    """In a thread, for whoever reads us may be slow."""
    for line in lines:
        if printer.json:
            printer.line(line.record())
        elif line.note:
            printer.note(line.plain())
        else:
            printer.text(line.plain())
    printer.flush()
