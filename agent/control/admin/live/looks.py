"""Who looks at what: one task for each answer that is watched, however many watch it.

    looks.watch("/figures?scope=mesh", 10, told)     # told(status, body) when it is another one

Laws
- A hundred who watch the same cost what one costs: it is asked once, written once, and the same bytes go to all.
- What nobody watches is not asked. A task ends with the last who watched, and with its owner.
- What is watched is what anybody may look at who gets to the API at all. All else is asked for by itself, by who may.
- Figures are asked for when a window has ended: before, they are the same. Where they could not be had, they are asked
  for again as anything else is. What is made of the table alone is asked for when that is another one, and once in
  MOST_S all the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec
import structlog
import trio
from starlette.routing import compile_path

from agent.control.admin.v1.operation import Asked, Operation, Trouble, read_query
from agent.control.asking.watched import Watched
from agent.control.figures.figures import MARGIN_S
from agent.control.host.rights import Right
from agent.figures.questions import WINDOW_S
from agent.visible import visible_json
from policies.language.plain import Flaw

MOST: Final = 256
"""Answers that are looked at."""
LEAST_S: Final = 1.0
MOST_S: Final = 60.0
AT_ONCE: Final = 4
"""Questions to all agents, beside those that people ask by themselves."""
LOOK_S: Final = 40.0
"""For an answer to be there: more than any deadline_s."""
LATE_S: Final = 0.3
"""After a window has ended everywhere."""
OK: Final = 200
Told: TypeAlias = Callable[[int, bytes], None]
"""A status, and the body of an answer; it returns at once."""
log = structlog.get_logger()


class Looks:
    """Of one agent."""

    def __init__(
        self, operations: Iterable[Operation], watched: Watched, clock: Callable[[], float] = time.time
    ) -> None:
        """`watched`: where it is counted."""
        self._known = [(compile_path(each.path)[0], each) for each in operations if each.method == "GET"]
        self._clock = clock
        self._wide = trio.CapacityLimiter(AT_ONCE)
        self._writing = trio.CapacityLimiter(1)
        self._looks: dict[tuple[Hashable, ...], _Look] = {}
        """By what is asked, however it is spelt."""
        self._watched = watched
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._looks)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def watch(self, path: str, every_s: float, told: Told, *, most: int = MOST) -> Callable[[], None]:
        """Have it told now and whenever it is another one; returns what ends that. `path`: below the API's root, with
        its query. `most`: answers that are looked at, beyond which this is no reason for another one. Raises Flaw and
        Trouble for what is not watched."""
        operation, asked = self._found(path)
        name = (operation.name, *sorted(asked.path.items()), asked.query)
        look = self._looks.get(name)
        if look is None:
            if len(self._looks) >= most or self._nursery is None:
                raise Trouble(503, f"{len(self._looks)} answers are watched here already; later")
            look = self._looks[name] = _Look(operation, asked, self._clock)
            self._watched.looks = len(self._looks)
            self._nursery.start_soon(self._go_on, name, look)
        look.watchers[told] = min(MOST_S, max(LEAST_S, every_s))
        self._watched.watches += 1
        look.hurry.set()
        if look.body:
            told(look.status, look.body)

        def end() -> None:
            if look.watchers.pop(told, None) is not None:
                self._watched.watches -= 1
            if not look.watchers:
                self._forget(name, look)
                look.scope.cancel()

        return end

    def _found(self, path: str) -> tuple[Operation, Asked]:
        where, _, asks = path.partition("?")
        where = unquote(where)
        for pattern, operation in self._known:
            if match := re.fullmatch(pattern, where):
                if operation.right is not Right.LOOK or not operation.watched:
                    raise Trouble(
                        403, f"{operation.path} is not watched: it is asked for by itself, by who may", "$.path"
                    )
                words = parse_qsl(asks, keep_blank_values=True)
                if len(dict(words)) < len(words):
                    raise Flaw("$.path", "something of its query stands there twice")
                return operation, Asked(match.groupdict(), read_query(dict(words), operation.query))
        raise Trouble(404, f"nothing is asked by {where[:200]} here", "$.path")

    def _forget(self, name: tuple[Hashable, ...], look: _Look) -> None:
        if self._looks.get(name) is look:
            del self._looks[name]
            self._watched.looks = len(self._looks)

    async def _go_on(self, name: tuple[Hashable, ...], look: _Look) -> None:
        with look.scope:
            while look.watchers:
                look.note()
                status, body = await self._answer(look)
                self._watched.asked += 1
                tag = blake2b(body, digest_size=16).digest()
                if (status, tag) != (look.status, look.tag):
                    look.status, look.tag, look.body = status, tag, body
                    for told in list(look.watchers):
                        told(status, body)
                await look.rest()
        self._forget(name, look)

    async def _answer(self, look: _Look) -> tuple[int, bytes]:
        """Whatever goes wrong is the answer."""
        try:
            with trio.fail_after(LOOK_S):
                if look.is_wide:
                    async with self._wide:
                        told = await look.operation.handle(look.asked)
                else:
                    told = await look.operation.handle(look.asked)
                return OK, await trio.to_thread.run_sync(_written, told, limiter=self._writing)
        except Flaw as flaw:
            return 400, _problem(400, flaw.reason, flaw.path)
        except Trouble as trouble:
            return trouble.status, _problem(trouble.status, trouble.detail, trouble.path)
        except trio.TooSlowError:
            return 503, _problem(503, f"no answer within {LOOK_S:g} s")
        except Exception as error:
            log.exception("what is watched could not be answered", path=look.operation.path)
            return 500, _problem(500, f"an internal error, see the agent's log: {type(error).__name__}: {error}")


class _Look:
    """At one answer."""

    def __init__(self, operation: Operation, asked: Asked, clock: Callable[[], float]) -> None:
        self.operation = operation
        self.asked = asked
        self.watchers: dict[Told, float] = {}
        """Who is told, and how old it may get for each (s)."""
        self.hurry = trio.Event()
        """Somebody new watches, who may want it sooner."""
        self.scope = trio.CancelScope()
        self.status = 0
        self.tag = b""
        self.body = b""
        self._made_of: Hashable = None
        self._clock = clock
        self._step_s = getattr(asked.query, "step_s", WINDOW_S) if operation.path.startswith("/figures") else 0

    @property
    def is_wide(self) -> bool:
        """Whether other agents are asked."""
        scope = getattr(self.asked.query, "scope", "agent")
        return scope == "mesh" or self.operation.wide or "{host}" in self.operation.path

    def note(self) -> None:
        """Of what the answer will be made: before it is asked for, so that what changes meanwhile is not missed."""
        self._made_of = self.operation.made_of() if self.operation.made_of is not None else None

    async def rest(self) -> None:
        """Until it may be another one."""
        if self._step_s and self.status == OK:
            now = self._clock() - MARGIN_S - LATE_S
            await trio.sleep(self._step_s - now % self._step_s)
            return
        began, made_of = trio.current_time(), self.operation.made_of
        while self.watchers:
            await self._wait(trio.current_time())
            if made_of is None or made_of() != self._made_of or trio.current_time() - began >= MOST_S:
                return

    async def _wait(self, began: float) -> None:
        """As long as whoever is most in a hurry wants."""
        while (left_s := began + min(self.watchers.values(), default=0.0) - trio.current_time()) > 0:
            self.hurry = trio.Event()
            with trio.move_on_after(left_s):
                await self.hurry.wait()


def _written(told: Any) -> bytes:
    """In a thread."""
    return visible_json(msgspec.json.encode(told).decode("utf-8", "replace")).encode()


def _problem(status: int, detail: str, path: str = "$") -> bytes:
    return msgspec.json.encode({"status": status, "detail": detail, "path": path})
