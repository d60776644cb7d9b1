"""A host that registers instances, against a store in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from agent.control.host.own_ports import OwnPorts
from agent.control.host.programs import Programs
from agent.control.instances.checks import Means
from agent.control.instances.registrar import Registrar
from agent.control.instances.registration import (
    Registered,
    Registration,
)
from agent.control.instances.tokens import Tokens
from agent.control.mesh.table import Table
from agent.identity.users import User
from agent.settings.file import parse
from policies.language.document import convert
from registry.keys import Keys
from registry.lease import Holder
from registry.ownership import whose
from registry.store import Change
from tests.support.memory import MemoryStore

KEYS = Keys()
PETS = ("pets", "here-80")
TTL_CHECK = {"ttl": "1h"}
"""Health that only changes when the instance says so."""


class Host:
    """One host: its registrar, and the etcd that it writes to. The table sees what the test lets it see."""

    def __init__(self, folder: Path, store: MemoryStore | None = None, settings: str = "") -> None:
        self.store = store or MemoryStore()
        self.settings = parse(f'host = "here"\nzone = "z"\nstate_dir = "{folder}"\n{settings}', "agent.toml")
        self.table = Table(KEYS, "here")
        self.holder = Holder(self.store, 10, whose=whose(KEYS, "here", "boot"))
        means = Means(Programs(), OwnPorts([("admin", ("127.0.0.1", 15000)), ("inbound", ("0.0.0.0", 15006))]))
        self.told: list[list[str]] = []
        """Whose tokens there were each time when it was said that there are others."""
        tokens = Tokens()
        self.registrar = Registrar(
            self.settings,
            "10.0.0.1",
            KEYS,
            self.holder,
            self.table,
            means,
            tokens,
            on_tokens=lambda: self.told.append(sorted(tokens.callers().values())),
        )

    def register(self, body: Any, uid: int = 1000, *, operates: bool = False) -> Registered:
        """As a user of this host."""
        return self.registrar.register(convert(body, Registration), User(uid), operates=operates)

    async def value(self, key: str) -> Any:
        found = await self.store.get(f"{KEYS.prefix}{key}")
        return None if found is None else json.loads(found.value)

    async def until(self, key: str, question: Any) -> Any:
        with trio.fail_after(60):
            while not question(value := await self.value(key)):
                await trio.sleep(0.01)
        return value

    def see(self, values: dict[str, Any]) -> None:
        """The mirror delivers."""
        changes = [Change(KEYS.prefix + key, json.dumps(value).encode(), 5) for key, value in values.items()]
        self.table.apply(changes, 5)


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.holder.run)
        nursery.start_soon(host.registrar.run)
        await trio.testing.wait_all_tasks_blocked()
        yield host
        nursery.cancel_scope.cancel()
