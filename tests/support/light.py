"""Agents without proxies, many of them in one process: what each does about events, on a store that they share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from agent.control.events.events import Events
from agent.control.events.hook_http import HookClient
from agent.control.mesh.table import Table
from agent.events import Event
from agent.hooks.receivers import Receivers
from registry.keys import Keys
from registry.lease import Holder
from registry.mirror import Mirror, Update
from registry.records import Agent, Health, Instance, encode
from registry.store import Store

KEYS = Keys()


class LightAgent:
    """One agent's registry side: table, outbox, detector and delivery."""

    def __init__(
        self,
        host: str,
        store: Store,
        allow: Sequence[str] = ("127.0.0.1",),
        ttl_s: int = 5,
        secrets: Mapping[str, Sequence[str]] | None = None,
        run: int = 0,
    ) -> None:
        self.host = host
        self.boot = f"boot{run}-{host}"
        self.table = Table(KEYS, host)
        self.holder = Holder(store, ttl_s)
        client = HookClient(allow, Path("/nowhere"), receivers=Receivers(secrets))
        self.recorded: list[Event] = []
        self.events = Events(
            self.table, store, KEYS, self.holder, client, host=host, boot=self.boot, record=self.recorded.append
        )
        self.outbox, self.detector, self.delivery = self.events.outbox, self.events.detector, self.events.delivery
        self.mirror = Mirror(store, *KEYS.watched, self._on_update)
        self.scope = trio.CancelScope()

    def _on_update(self, update: Update) -> None:
        touched = self.table.apply(update.changes, update.revision)
        self.events.take(update, touched, cluster=self.mirror.cluster_id)

    async def run(self) -> None:
        """Until killed."""
        record = Agent(address="127.0.0.1", inbound_port=1, boot=self.boot)
        self.holder.put(KEYS.agent(self.host), encode(record))
        with self.scope:
            async with trio.open_nursery() as nursery:
                for each in (self.mirror.run, self.holder.run, self.detector.run, self.delivery.run):
                    nursery.start_soon(each)

    def kill(self) -> None:
        """As kill -9 would: nothing is given back, the lease runs out."""
        self.scope.cancel()

    def instance(self, identity: str, service: str = "pets.production") -> None:
        """One of this host's, healthy."""
        self.holder.put(
            KEYS.instance(service, identity), encode(Instance(address="127.0.0.1", port=1, agent=self.host))
        )
        self.holder.put(KEYS.health(service, identity), encode(Health(healthy=True, agent=self.host)))

    def turn(self, identity: str, healthy: bool, service: str = "pets.production", reason: str = "said so") -> None:
        """A transition, with its event in one transaction."""
        name = "instance.healthy" if healthy else "instance.unhealthy"
        also = self.detector.of_instance(name, (service, identity), {"reason": reason})
        record = Health(healthy=healthy, reason=reason[:1000], agent=self.host)
        self.holder.put(KEYS.health(service, identity), encode(record), also=also)


@asynccontextmanager
async def light_agents(stores: Sequence[Store], count: int, **more: Any) -> AsyncIterator[list[LightAgent]]:
    """All of them know all of them."""
    agents = [LightAgent(f"host-{n}", stores[n % len(stores)], **more) for n in range(count)]
    async with trio.open_nursery() as nursery:
        for agent in agents:
            nursery.start_soon(agent.run)
        await until(lambda: all(len(agent.table.agents) == count for agent in agents), 60)
        yield agents
        nursery.cancel_scope.cancel()


async def until(condition: Any, patience_s: float = 60) -> None:
    """Wait until it is so."""
    with trio.fail_after(patience_s):
        while not condition():
            await trio.sleep(0.02)


async def put_webhook(store: Store, document: dict[str, Any], pattern: str = "pets.production") -> None:
    """As an operator would."""
    await store.put(KEYS.policy("webhook", pattern), json.dumps(document).encode())
