"""`shoal events` and `shoal hook`: what happened, who was told of it, and trying a webhook out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from agent.cli.agent_client import API
from agent.cli.completion import patterns, services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer, Row, field

if TYPE_CHECKING:
    from registry.census import Census
    from registry.keys import Keys, Room
    from registry.store import Store

app = typer.Typer(no_args_is_help=False, invoke_without_command=True)
hook_app = typer.Typer(no_args_is_help=True)
COLUMNS = {name: field(name) for name in ("time", "state", "type", "subject", "reason", "hooks", "id")}


@app.callback()
def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, with what happens from now on.")] = False,
    service: Annotated[str, typer.Option(help="Only those of a service.", autocompletion=services)] = "",
) -> None:
    """Show what happened: what webhooks want to know, what stands in etcd, and what the agent here remembers.

    Example:  shoal events --follow
    """
    if context.invoked_subcommand is not None:
        return
    from agent.cli.etcd_client import ask
    from registry.census import take

    options: Options = context.obj
    name = _service(service) if service else ""
    if follow:
        ask(options, lambda store: _follow(store, options, name))
        return
    census = ask(options, lambda store: take(store, options.mesh))
    found = [*ask(options, lambda store: listed(store, options.mesh)), *_without_webhooks(options, census)]
    rows = sorted((row for row in found if _is_of(row, name)), key=lambda row: (row["time"], row["id"]))
    if name and not rows:
        _refuse_unknown(name, census)
    options.printer.rows(rows, COLUMNS, empty="nothing happened that anybody knows of")


@app.command()
def replay(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="The event's id, as `shoal events` shows it.")],
) -> None:
    """Tell an event again: an undelivered one to the webhooks that did not take it, one that was told to all.

    Example:  shoal events replay 9f86d081884c7d65-local-4
    """
    options: Options = context.obj
    told = options.admin.post(f"{API}/events/{quote(id, safe='')}/replay", {})
    if options.printer.json:
        options.printer.value(told)
    else:
        options.printer.note(f"{told['id']} will be told again")


@hook_app.command()
def test(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="Whose webhook; a service or a pattern.", autocompletion=patterns)],
    name: Annotated[str, typer.Argument(help="The hook's name in the document.")],
    event: Annotated[str, typer.Option(help="The type of event to send an example of.")] = "",
) -> None:
    """Send an example to a webhook, from the agent on this host, and show what came back. Exit code 1: it failed.

    Nothing is tried again, and no filter is asked. The example's reason says that it is a test.

    Example:  shoal hook test pets.production chat
    """
    options: Options = context.obj
    told = options.admin.post(f"{API}/hooks/test", {"service": service, "hook": name, "event": event})
    if options.printer.json:
        options.printer.value(told)
    else:
        options.printer.text(f"{'delivered' if told['delivered'] else 'failed'}: {told['what']}")
    if not told["delivered"]:
        raise typer.Exit(Exit.NO)


def _refuse_unknown(service: str, census: Census) -> None:
    """Raises Failure for what is none: of it nothing would read as if all was quiet."""
    from policies.language.document import meant

    known = {name for name, _ in census.instances} | {name for _, name in census.policies if "*" not in name}
    if service not in known:
        raise Failure(
            f"there is no service {service}{meant(service, known)}; `shoal services` lists those that there are"
        )


def _without_webhooks(options: Options, census: Census) -> list[Row]:
    from agent.cli.commands.diagnosis.history import remembered, standing

    rows: list[Row] = list(standing(census))
    try:
        return [*rows, *remembered(options.admin.state())]
    except Failure:
        return rows  # no agent on this host


def _service(text: str) -> str:
    from policies.language.names import parse_service

    try:
        return parse_service(text)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _is_of(row: Row, service: str) -> bool:
    return not service or row["service"] == service


async def listed(store: Store, mesh: str) -> list[Row]:
    """Every event that stands in etcd, the oldest first."""
    from registry.keys import Keys, Room
    from registry.store import prefix_end

    keys = Keys(mesh)
    rows: list[Row] = []
    for room in (Room.TOLD, Room.EVENTS, Room.UNDELIVERED):
        prefix = keys.room(room)
        for item in (await store.range(prefix, prefix_end(prefix))).items:
            id = item.key[len(prefix) :]
            row = row_of(room, id, await _whole(store, keys, id, item.value))
            if row is not None:
                rows.append(row)
    return sorted(rows, key=lambda row: (row["time"], row["id"]))


async def _whole(store: Store, keys: Keys, id: str, value: bytes) -> bytes:
    """An event and what came of it, also where it stands under the key of the host that tells of it."""
    from msgspec.structs import replace

    from registry.records import Malformed, OutboxEntry, decode, encode

    try:
        entry = decode(OutboxEntry, value)
        word = await store.get(keys.own_event(entry.host, id)) if entry.host else None
        return value if word is None else encode(replace(entry, event=decode(OutboxEntry, word.value).event))
    except (Malformed, ValueError):
        return value


def row_of(room: Room, id: str, value: bytes) -> dict[str, Any] | None:
    """An event as it is shown; None when it is none."""
    from registry.keys import Room
    from registry.records import Malformed, OutboxEntry, decode

    try:
        record = decode(OutboxEntry, value)
    except Malformed:
        return None
    state = {Room.EVENTS: "waiting", Room.TOLD: "told", Room.UNDELIVERED: "undelivered"}[room]
    event = record.event
    if not event:
        return None
    data = event.get("data")
    return {
        "time": str(event.get("time", "")),
        "state": state,
        "type": str(event.get("type", "")).removeprefix("io.shoal."),
        "subject": str(event.get("subject", "")),
        "service": str(event.get("service", "")),
        "reason": str(data.get("reason", "")) if isinstance(data, dict) else "",
        "hooks": "; ".join(f"{hook}: {outcome}" for hook, outcome in {**record.done, **record.trying}.items()),
        "id": id,
    }


async def _follow(store: Store, options: Options, service: str) -> None:
    """From now on, one line each, until Ctrl-C."""
    from registry.keys import Key, Keys, Room
    from registry.store import prefix_end

    keys = Keys(options.mesh)
    rooms = (Room.EVENTS, Room.TOLD, Room.UNDELIVERED)
    start, end = keys.room(Room.EVENTS), prefix_end(keys.room(Room.UNDELIVERED))
    revision = (await store.range(start, start + "0")).revision
    async with store.watch(start, end, revision + 1) as watch:
        options.printer.note(f"following events of {service or 'every service'}; Ctrl-C ends it")
        while True:
            for change in (await watch.receive()).changes:
                key = keys.parse(change.key)
                if change.value is None or not isinstance(key, Key) or key.room not in rooms or key.second:
                    continue
                row = row_of(key.room, key.first, await _whole(store, keys, key.first, change.value))
                if row is not None and _is_of(row, service):
                    _print(options.printer, row)


def _print(printer: Printer, row: dict[str, Any]) -> None:
    if printer.json:
        printer.value(row)
    else:
        said = row["hooks"] or row["reason"]
        printer.text(f"{row['time']}  {row['state']:11}  {row['type']:20}  {row['subject']}  {said}  {row['id']}")
