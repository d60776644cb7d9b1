"""`/api/v1/live`: one WebSocket of a page, on which answers of the API come as they change. Text frames of JSON.

    → {"watch": "w1", "path": "/figures?scope=mesh&by=edge", "every_s": 10}      → {"unwatch": "w1"}
    ← {"watch": "w1", "status": 200, "body": {…}}      at once, and when it is another one; a problem with its status
    ← {"now": 1732700000.1}                            every BEAT_S: who hears nothing longer has lost the agent

Laws
- Who reads slowly gets the newest of each answer, and never what was before it: one answer waits for each watch. Who
  takes nothing for SEND_S is let go, and who takes less than he asks for is heard no further meanwhile.
- Whatever is sent here is answered or ends the connection, and never the agent.
- Who is not known, on the admin port, has three quarters of the connections and of the answers: no program on the host
  keeps out those who are.
- Whether somebody is still the person that he was is looked at with every beat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import msgspec
import trio
from msgspec import Meta
from starlette.websockets import WebSocket

from agent.control.admin.browsers import why_not
from agent.control.admin.door import PEER, STILL, VISITOR
from agent.control.admin.live.looks import MOST, MOST_S, Looks
from agent.control.admin.people import POLICY
from agent.control.admin.v1.operation import Trouble
from agent.control.asking.watched import Watched
from agent.process.guests import SEND_S
from policies.language.document import convert
from policies.language.plain import Flaw

MOST_CONNECTIONS: Final = 200
MOST_WATCHES: Final = 32
"""Of one connection."""
MOST_WAITING: Final = 128
"""Answers that wait to be taken, refusals among them, before more is heard of who asks."""
MOST_SAID: Final = 4096
"""Characters of what a page says at once."""
BEAT_S: Final = 10.0
CLOSE_S: Final = 1.0
TOO_MANY: Final = 1013
_BEAT: Final = ""
"""No watch is called so."""
Name = Annotated[str, Meta(min_length=1, max_length=2048)]


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page says."""

    watch: Name = "-"
    """What it is called in answers."""
    path: Annotated[str, Meta(max_length=2048)] = ""
    every_s: Annotated[float, Meta(ge=0, le=MOST_S)] = 5.0
    unwatch: Annotated[str, Meta(max_length=2048)] = ""


class Live:
    """Of one agent."""

    def __init__(self, looks: Looks, watched: Watched) -> None:
        """`watched`: where it is counted."""
        self._looks = looks
        self._watched = watched

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from its opening to its end."""
        if why_not(socket):
            await socket.close(POLICY)
            return
        if self._watched.connections >= (MOST_CONNECTIONS if _is_known(socket) else MOST_CONNECTIONS * 3 // 4):
            await socket.close(TOO_MANY)
            return
        self._watched.connections += 1
        try:
            await socket.accept()
            await _Connection(self._watched, self._looks, socket).run()
        finally:
            self._watched.connections -= 1


class _Connection:
    """One page."""

    def __init__(self, watched: Watched, looks: Looks, socket: WebSocket) -> None:
        self._watched = watched
        self._looks = looks
        self._socket = socket
        self._most = MOST if _is_known(socket) else MOST * 3 // 4
        self._still: Callable[[], str] | None = socket.scope.get(STILL)
        self._ends: dict[str, Callable[[], None]] = {}
        self._waiting: dict[str, bytes] = {}
        """What is to be told, by watch."""
        self._news = trio.Event()
        self._taken = trio.Event()
        """One of them is on its way."""
        self._over = ""
        """Why it has to go."""

    async def run(self) -> None:
        """Until the page goes, or has to."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._beat, nursery.cancel_scope)
                nursery.start_soon(self._tell, nursery.cancel_scope)
                await self._hear()
                nursery.cancel_scope.cancel()
        finally:
            for end in self._ends.values():
                end()
        if self._over:
            with trio.move_on_after(CLOSE_S):
                await self._socket.close(POLICY, self._over[:100])

    async def _hear(self) -> None:
        while True:
            while len(self._waiting) >= MOST_WAITING:
                self._taken = trio.Event()
                await self._taken.wait()
            said = await self._socket.receive()
            if said["type"] == "websocket.disconnect":
                return
            self._take(said.get("text") or "")

    def _take(self, text: str) -> None:
        name = "-"
        try:
            if not text or len(text) > MOST_SAID:
                raise Flaw("$", f"a text frame of at most {MOST_SAID} characters, of JSON")
            asked = convert(_decoded(text), Watch)
            name = asked.watch
            if asked.unwatch:
                self._end(asked.unwatch)
                return
            self._end(name)
            if len(self._ends) >= MOST_WATCHES:
                raise Trouble(429, f"{MOST_WATCHES} answers are watched on this connection already")
            self._ends[name] = self._looks.watch(asked.path, asked.every_s, partial(self._put, name), most=self._most)
        except Flaw as flaw:
            self._refuse(name, 400, flaw.reason, flaw.path)
        except Trouble as trouble:
            self._refuse(name, trouble.status, trouble.detail, trouble.path)

    def _end(self, name: str) -> None:
        end = self._ends.pop(name, None)
        if end is not None:
            end()
        self._waiting.pop(name, None)

    def _refuse(self, name: str, status: int, detail: str, path: str) -> None:
        self._put(name, status, msgspec.json.encode({"status": status, "detail": detail, "path": path}))

    def _put(self, name: str, status: int, body: bytes) -> None:
        if self._waiting.pop(name, None) is not None:
            self._watched.skipped += 1
        self._waiting[name] = b'{"watch":%b,"status":%d,"body":%b}' % (msgspec.json.encode(name), status, body)
        self._news.set()

    async def _tell(self, connection: trio.CancelScope) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._waiting:
                frame = self._waiting.pop(next(iter(self._waiting))).decode()
                self._taken.set()
                with trio.move_on_after(SEND_S) as limit:
                    await self._socket.send_text(frame)
                if limit.cancelled_caught:
                    self._over = "it does not take what it is told"
                    connection.cancel()

    async def _beat(self, connection: trio.CancelScope) -> None:
        while True:
            if self._still is not None and (why := self._still()):
                self._over = why
                connection.cancel()
            self._waiting[_BEAT] = msgspec.json.encode({"now": round(time.time(), 3)})
            self._news.set()
            await trio.sleep(BEAT_S)


def _is_known(socket: WebSocket) -> bool:
    """Whether it is a person, or a user by the word of the kernel."""
    return socket.scope.get(VISITOR) is not None or socket.scope.get(PEER) is not None


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise Flaw("$", f"not JSON: {error}") from None
