"""What people may ask of events through the agent's socket: trying a webhook out, and telling an event again."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.door import Answer, Door, read_json, refusal
from agent.control.events.delivery import Delivery
from agent.control.events.hook_runner import GIVEN_UP
from agent.control.events.outbox.outbox import Outbox
from agent.control.host.clock import now_text
from agent.control.host.rights import Right
from agent.hooks.steps import Done
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import BY_NAME, HEALTH, Effect, Event, sample
from policies.language.names import candidates, parse_pattern
from policies.language.plain import Flaw
from registry.keys import Keys, Room
from registry.records import Malformed, OutboxEntry, decode
from registry.store import Compare, Delete, Put, Store, StoreError


class EventsApi:
    """The handlers."""

    def __init__(self, outbox: Outbox, delivery: Delivery, store: Store, keys: Keys) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._store = store
        self._keys = keys

    def doors(self) -> list[Door]:
        """For the agent's socket."""
        return [
            Door("POST", "/hooks/test", self.test, Right.OPERATE),
            Door("POST", "/events/{id}/replay", self.replay, Right.OPERATE),
        ]

    async def test(self, request: Request) -> Response:
        """Send an example to a hook, once, and answer with what came of it."""
        try:
            body = await read_json(request)
            hook, event = self._asked(body)
        except Flaw as fault:
            return refusal(404 if fault.path == "$.hook" else 400, fault.reason, fault.path)
        found = await self._delivery.client.deliver(self._delivery.outward(event), hook)
        if isinstance(found, Done):
            return Answer({"delivered": True, "what": found.what, "event": event.id})
        return Answer({"delivered": False, "what": found.reason, "event": event.id})

    def _asked(self, body: Any) -> tuple[Hook, Event]:
        """Raises Flaw."""
        if not isinstance(body, dict):
            raise Flaw("$", 'an object such as {"service": "pets.production", "hook": "chat"}')
        try:
            pattern = parse_pattern(str(body.get("service") or ""))
        except ValueError as error:
            raise Flaw("$.service", str(error)) from None
        documents = self._outbox.documents()
        names = (pattern, "*") if "*" in pattern else candidates(pattern)
        standing = next((name for name in names if name in documents), None)
        if standing is None:
            raise Flaw("$.hook", f"no webhook policy is for {pattern}")
        hooks = documents[standing].hooks
        hook = hooks.get(str(body.get("hook") or ""))
        if hook is None:
            raise Flaw("$.hook", f"the webhook policy of {standing} has no such hook; there are: {', '.join(hooks)}")
        wanted = [name for name in HEALTH if name in hook.names()] or list[Any](sorted(hook.names())) or [HEALTH[0]]
        opening = [name for name in wanted if BY_NAME[name].effect is Effect.OPENS]
        name = str(body.get("event") or "") or (opening or wanted)[0]
        if name not in BY_NAME:
            raise Flaw("$.event", f"{name[:60]!r} is no event; docs/events.md lists them")
        example = sample(name)
        data = {**example.data, "reason": "a test of this webhook; nothing happened"}
        service = standing if "*" not in standing else "example.production"
        subject = example.subject.replace("pets.production", service)
        return hook, msgspec.structs.replace(
            example,
            id=f"test-{msgspec.json.encode(now_text()).hex()[-16:]}",
            time=now_text(),
            mesh=self._keys.mesh,
            service=service,
            subject=subject,
            key=f"{self._keys.mesh}/{subject}",
            data=data,
            link="",
        )

    async def replay(self, request: Request) -> Response:
        """Put an event into the outbox again."""
        id = request.path_params["id"]
        try:
            for room in (Room.UNDELIVERED, Room.TOLD):
                found = await self._store.get(self._keys.event(id, room))
                if found is not None:
                    return await self._again(id, room, found.value)
        except StoreError as error:
            return refusal(503, f"etcd: {error}")
        return refusal(404, f"no event {id!r} was told within a day, or is undelivered; `shoal events` lists them")

    async def _again(self, id: str, room: Room, value: bytes) -> Response:
        try:
            record = decode(OutboxEntry, value)
        except Malformed as error:
            return refusal(400, f"{room.value}/{id}: {error}")
        done: dict[str, str] = {}
        if room is Room.UNDELIVERED:
            told = await self._store.get(self._keys.event(id, Room.TOLD))
            before = decode(OutboxEntry, told.value).done if told is not None else {}
            done = {hook: outcome for hook, outcome in before.items() if not outcome.startswith(GIVEN_UP)}
        try:
            puts = self._delivery.own.again(msgspec.convert(record.event, Event), done)
        except msgspec.ValidationError as error:
            return refusal(400, f"{room.value}/{id}: {error}")
        if isinstance(puts, str):
            return refusal(409, f"{id}: {puts}")
        operations: list[Put | Delete] = [*puts, Delete(self._keys.event(id, room))]
        absent = [Compare(self._keys.event(id), create_revision=0)]
        if not (await self._store.transact(absent, operations)).succeeded:
            return refusal(409, f"{id} is still waiting to be told")
        return Answer({"id": id, "room": room.value})
