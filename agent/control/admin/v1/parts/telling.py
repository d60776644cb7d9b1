"""What operators may ask of events: to try a webhook out, and to tell an event again."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.control.admin.v1 import types
from agent.control.admin.v1.operation import Asked, NoQuery, Operation, Trouble
from agent.control.events.delivery import Delivery
from agent.control.events.hook_runner import GIVEN_UP
from agent.control.events.outbox.outbox import Outbox
from agent.control.host.clock import now_text
from agent.control.host.rights import Right
from agent.control.parts import Parts
from agent.hooks.steps import Done
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import BY_NAME, HEALTH, Effect, Event, sample
from policies.language.names import candidates, parse_pattern
from registry.keys import Keys, Room
from registry.records import Malformed, OutboxEntry, decode
from registry.store import Compare, Delete, Put, Store, StoreError


class HookTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which webhook is tried out."""

    service: Annotated[str, Meta(max_length=512, description="Whose: a service, or a pattern such as *.production")]
    hook: Annotated[str, Meta(max_length=512, description="Its name in the document")]
    event: Annotated[
        str, Meta(max_length=64, description="An example of which event it is sent; empty: one that it waits for")
    ] = ""


class HookTested(types.Base, frozen=True, kw_only=True):
    """What came back."""

    delivered: bool
    what: str
    event: Annotated[str, Meta(description="The id of the example")]


class Replayed(types.Base, frozen=True, kw_only=True):
    """An event that will be told again."""

    id: str
    room: Annotated[str, Meta(description="Of etcd, where it stood: undelivered or told")]


class Telling:
    """The handlers."""

    def __init__(self, outbox: Outbox, delivery: Delivery, store: Store, keys: Keys) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._store = store
        self._keys = keys

    def operations(self) -> list[Operation]:
        """For who operates."""
        tried, again = "Send an example to a webhook, once, and say what came back", "Tell an event again"
        operate = Right.OPERATE
        return [
            Operation(
                "POST",
                "/hooks/test",
                "testHook",
                tried,
                NoQuery,
                HookTested,
                self._test,
                takes=HookTest,
                right=operate,
                refuses=((404, "There is no such webhook"),),
            ),
            Operation(
                "POST",
                "/events/{id}/replay",
                "replayEvent",
                again,
                NoQuery,
                Replayed,
                self._replay,
                right=operate,
                refuses=((409, "It waits to be told, or nobody is to be told of it"), (503, "etcd does not answer")),
            ),
        ]

    # Trying out.

    async def _test(self, asked: Asked) -> HookTested:
        hook, event = self._chosen(asked.body)
        found = await self._delivery.client.deliver(self._delivery.outward(event), hook)
        if isinstance(found, Done):
            return HookTested(delivered=True, what=found.what, event=event.id)
        return HookTested(delivered=False, what=found.reason, event=event.id)

    def _chosen(self, wanted: HookTest) -> tuple[Hook, Event]:
        """Raises Trouble."""
        try:
            pattern = parse_pattern(wanted.service)
        except ValueError as error:
            raise Trouble(400, str(error), "$.service") from None
        documents = self._outbox.documents()
        names = (pattern, "*") if "*" in pattern else candidates(pattern)
        standing = next((name for name in names if name in documents), None)
        if standing is None:
            raise Trouble(404, f"no webhook policy is for {pattern}", "$.service")
        hooks = documents[standing].hooks
        hook = hooks.get(wanted.hook)
        if hook is None:
            there = ", ".join(hooks)
            raise Trouble(404, f"the webhook policy of {standing} has no such hook; there are: {there}", "$.hook")
        waited_for = [name for name in HEALTH if name in hook.names()] or list[Any](sorted(hook.names())) or [HEALTH[0]]
        opening = [name for name in waited_for if BY_NAME[name].effect is Effect.OPENS]
        name = wanted.event or (opening or waited_for)[0]
        if name not in BY_NAME:
            raise Trouble(400, f"{name!r} is no event; docs/events.md lists them", "$.event")
        return hook, self._example(name, standing if "*" not in standing else "example.production")

    def _example(self, name: Any, service: str) -> Event:
        example = sample(name)
        subject = example.subject.replace("pets.production", service)
        return msgspec.structs.replace(
            example,
            id=f"test-{msgspec.json.encode(now_text()).hex()[-16:]}",
            time=now_text(),
            mesh=self._keys.mesh,
            service=service,
            subject=subject,
            key=f"{self._keys.mesh}/{subject}",
            data={**example.data, "reason": "a test of this webhook; nothing happened"},
            link="",
        )

    # Telling again.

    async def _replay(self, asked: Asked) -> Replayed:
        id = asked.path["id"]
        try:
            for room in (Room.UNDELIVERED, Room.TOLD):
                found = await self._store.get(self._keys.event(id, room))
                if found is not None:
                    return await self._again(id, room, found.value)
        except StoreError as error:
            raise Trouble(503, f"etcd: {error}") from None
        raise Trouble(404, f"no event {id[:260]!r} was told within a day, or is undelivered; `shoal events` lists them")

    async def _again(self, id: str, room: Room, value: bytes) -> Replayed:
        """Puts it into the outbox again. Raises StoreError, and Trouble."""
        told = await self._store.get(self._keys.event(id, Room.TOLD)) if room is Room.UNDELIVERED else None
        try:
            event = msgspec.convert(decode(OutboxEntry, value).event, Event)
            before = decode(OutboxEntry, told.value).done if told is not None else {}
        except (Malformed, msgspec.ValidationError) as error:
            raise Trouble(400, f"{room.value}/{id}: {error}") from None
        done = {hook: outcome for hook, outcome in before.items() if not outcome.startswith(GIVEN_UP)}
        puts = self._delivery.own.again(event, done)
        if isinstance(puts, str):
            raise Trouble(409, f"{id}: {puts}")
        operations: list[Put | Delete] = [*puts, Delete(self._keys.event(id, room))]
        absent = [Compare(self._keys.event(id), create_revision=0)]
        if not (await self._store.transact(absent, operations)).succeeded:
            raise Trouble(409, f"{id} is still waiting to be told")
        return Replayed(id=id, room=room.value)


def telling(parts: Parts) -> Telling:
    """By an agent."""
    here, events = parts.here, parts.events
    return Telling(events.outbox, events.delivery, here.store, here.keys)
