"""What operators ask of events: telling one again, whatever stands in etcd."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.routing import Route

from agent.control.admin.v1.parts.telling import Telling
from policies.kinds.webhook.document import Webhook
from policies.kinds.webhook.event import Event, sample
from policies.language.document import convert
from registry.keys import Keys, Room
from registry.records import OutboxEntry, encode
from registry.store import Put
from tests.support.memory import MemoryStore

KEYS = Keys()
HOOK = {"hooks": {"chat": {"events": ["instance.gone"], "target": {"url": "https://chat.example/"}}}}


class Doubles:
    """An outbox, and who delivers from it."""

    def __init__(self) -> None:
        self.own = self
        self.done: dict[str, str] = {}

    def documents(self) -> dict[str, Webhook]:
        return {"pets.production": convert(HOOK, Webhook)}

    def again(self, event: Event, done: dict[str, str]) -> list[Put]:
        self.done = done
        return [Put(KEYS.event(event.id), b"again")]


class Asking:
    """Of the operations."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.doubles: Any = Doubles()
        doors = [each.door() for each in Telling(self.doubles, self.doubles, self.store, KEYS).operations()]
        app = Starlette(routes=[Route(door.path, door.handler, methods=[door.method]) for door in doors])
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here/api/v1")

    async def put(self, room: Room, value: bytes) -> None:
        await self.store.put(KEYS.event("one", room), value)

    async def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        told = await self._client.post(path, json=body)
        return told.status_code, told.json()


def entry(**more: Any) -> bytes:
    event = msgspec.structs.replace(sample("instance.gone"), id="one")
    return encode(OutboxEntry(event=msgspec.to_builtins(event), **more))


async def test_an_event_is_told_again_to_those_that_did_not_take_it() -> None:
    """Once; until it is told nobody asks for it anew."""
    asking = Asking()
    await asking.put(Room.UNDELIVERED, entry())
    await asking.put(Room.TOLD, entry(done={"a/chat": "ok", "a/page": "given up: 500"}))
    assert await asking.ask("/events/one/replay") == (200, {"id": "one", "room": "undelivered"})
    assert asking.doubles.done == {"a/chat": "ok"}
    assert await asking.store.get(KEYS.event("one", Room.UNDELIVERED)) is None
    await asking.put(Room.TOLD, entry())
    status, told = await asking.ask("/events/one/replay")
    assert status == 409 and "still waiting" in told["detail"]
    assert (await asking.ask("/events/two/replay"))[0] == 404


async def test_garbage_is_said_to_be_some() -> None:
    """Wherever it stands."""
    for garbage in (b"\xff", b"{}", b'{"event": {"id": 5}}'):
        asking = Asking()
        await asking.put(Room.UNDELIVERED, garbage)
        assert (await asking.ask("/events/one/replay"))[0] == 400, garbage
    asking = Asking()
    await asking.put(Room.UNDELIVERED, entry())
    await asking.put(Room.TOLD, b"\xff")
    assert (await asking.ask("/events/one/replay"))[0] == 400
    assert await asking.store.get(KEYS.event("one", Room.UNDELIVERED)) is not None


async def test_what_cannot_be_tried_out_says_where_it_is_wrong() -> None:
    """Nobody is told anything."""
    asking = Asking()
    for body, status, path in (
        ({"service": "pets.production", "hook": "chat", "event": "nothing"}, 400, "$.event"),
        ({"service": "pets.production", "hook": "none"}, 404, "$.hook"),
        ({"service": "shop.production", "hook": "chat"}, 404, "$.service"),
        ({"service": "..", "hook": "chat"}, 400, "$.service"),
        ({"service": "pets.production"}, 400, "$"),
        ({"service": "pets.production", "hook": "chat", "evnt": "x"}, 400, "$"),
    ):
        found, told = await asking.ask("/hooks/test", body)
        assert (found, told["path"]) == (status, path), (body, told)
