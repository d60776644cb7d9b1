"""`shoal mesh accept`: the policies are meant as they stand in etcd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from agent.cli.options import Options, who

if TYPE_CHECKING:
    from registry.census import Census
    from registry.store import Store


def accept(context: typer.Context) -> None:
    """Say that the policies are meant as they stand in etcd: agents end what they hold against it.

    After etcd was replaced, restored, or lost most policies at once, agents keep those that were in force before.

    Example:  shoal status; shoal mesh accept
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    census, revision = ask(options, lambda store: _confirmed(store, options.mesh))
    held = [f"{kind}/{service}" for kind, service in sorted(census.held)]
    if options.printer.json:
        options.printer.value({"revision": revision, "held": held, "policies": len(census.policies)})
        return
    for name in held:
        options.printer.note(f"held no more: {name}")
    options.printer.note(f"{len(census.policies)} policies stand in etcd, and are meant")
    options.printer.text(f"{revision}")


async def _confirmed(store: Store, mesh: str) -> tuple[Census, int]:
    from registry.census import take
    from registry.keys import Keys

    census = await take(store, mesh, "policies", "held")
    keys = Keys(mesh)
    return census, await store.put(keys.confirmed, word(mesh))


def word(mesh: str) -> bytes:
    """What `confirmed/policies` says."""
    from registry.records import Confirmed, encode

    return encode(Confirmed(at=now_text(), by=who(mesh)))


def now_text() -> str:
    """RFC 3339, UTC."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
