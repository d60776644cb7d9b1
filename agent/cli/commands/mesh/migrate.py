"""`shoal mesh migrate`: agents write under keys that are their hosts' own, so that etcd's rights can protect them.

Laws
- It is begun only when every live agent can, and ended only when every one has moved. Between the two, and after a
  command that was killed, everything counts wherever it stands.
- What is said is said against what was read: of two that say different things at once, one is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from agent.cli.commands.mesh.policies import now_text
from agent.cli.failure import Failure
from agent.cli.options import Options, who
from registry.records import MOVED, Layout

if TYPE_CHECKING:
    from registry.census import Census
    from registry.store import Store

ROOMS: Final = ("agents", "versions", "instances", "health", "confirmed", "events")
ASK_EVERY_S: Final = 0.1
MOVE_S: Final = 60.0
State = Literal["own", "own_only", "common"]


def migrate(
    context: typer.Context,
    back: Annotated[bool, typer.Option("--back", help="To where they stood before there was hosts/.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", "-t", min=0, help="Seconds, for all to move.")] = MOVE_S,
) -> None:
    """Have agents move what is theirs under keys of their hosts' own, which etcd's rights can protect.

    Each moves its own in transactions that delete and put, so that no request fails. Refused while an agent lives whose
    version cannot; said again it goes on where it was.

    Example:  shoal mesh migrate
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    moved = ask(options, lambda store: _migrated(store, options.mesh, back, timeout_s))
    where = "where they stood before" if back else "under hosts/"
    options.printer.note(f"{moved.agents} agents write {where}: {moved.instances} instances stand there")
    if options.printer.json:
        options.printer.value({"state": moved.state, "agents": moved.agents, "instances": moved.instances})


class Moved:
    """How it is in the end."""

    def __init__(self, census: Census, state: State) -> None:
        self.state = state
        self.agents = len(census.agents)
        self.instances = sum(bool(record.agent) for record in census.instances.values())


async def _migrated(store: Store, mesh: str, back: bool, timeout_s: float) -> Moved:
    """Raises Failure that says who cannot, or has not."""
    census = await _census(store, mesh)
    _refuse(census, back)
    now = census.layout
    if back or now is None or not _is_whole(now):
        before: State = "own_only" if now is not None and now.state == "own_only" else "own"
        revision = await _say(store, mesh, census, "common" if back else before)
        census = await _all_moved(store, mesh, revision, back, timeout_s)
    if back:
        return Moved(census, "common")
    _refuse(census, back)
    await _say(store, mesh, census, "own_only")
    return Moved(census, "own_only")


def _is_whole(layout: Layout) -> bool:
    """Whether all is said already: a version before had less to move."""
    return layout.state == "own_only" and all(map(layout.has, MOVED))


async def _census(store: Store, mesh: str) -> Census:
    from registry.census import take

    return await take(store, mesh, *ROOMS)


def _refuse(census: Census, back: bool) -> None:
    from agent.findings.of_mesh.layout import common_ids, unable

    hosts = [] if back else unable(census)
    cannot = [f"{host} ({census.agents[host].version or 'of no version that it tells'})" for host in hosts]
    if cannot:
        raise Failure(
            f"not begun: {', '.join(cannot)} cannot write under hosts/ and reports/. Their version does not know these "
            "(upgrade them), or their role in etcd does not allow it (docs/keys.md)"
        )
    twice = common_ids(census) if back else []
    if twice:
        raise Failure(f"one of each could not go back, for these are used twice: {', '.join(twice)}; rename them first")


async def _say(store: Store, mesh: str, census: Census, state: State) -> int:
    """Put it, unless it is said already; the revision at which it was put."""
    from registry.keys import Keys
    from registry.records import Layout, encode
    from registry.store import Compare, Put

    rooms = [] if state == "common" else list(MOVED)
    if census.layout is not None and (census.layout.state, census.layout.rooms) == (state, rooms):
        return census.layout_revision
    key = Keys(mesh).layout
    word = encode(Layout(state=state, at=now_text(), by=who(mesh), rooms=rooms))
    outcome = await store.transact([Compare(key, mod_revision=census.layout_revision)], [Put(key, word)])
    if not outcome.succeeded:
        raise Failure("somebody else said where agents write, at the same time: see `shoal status`, and say it again")
    return outcome.revision


async def _all_moved(store: Store, mesh: str, revision: int, back: bool, timeout_s: float) -> Census:
    import trio

    from agent.findings.of_mesh.layout import elsewhere, untold

    until = trio.current_time() + timeout_s
    while True:
        census = await _census(store, mesh)
        if census.layout_revision != revision and (census.layout is None or census.layout.own is back):
            raise Failure("somebody else said otherwise meanwhile: see `shoal status`")  # this can come no more
        left = elsewhere(census, own=not back)
        left |= {host: ["events that are still to be told", *left.get(host, ())] for host in untold(census) if back}
        if not left or trio.current_time() >= until:
            break
        await trio.sleep(ASK_EVERY_S)
    if left:
        said = "; ".join(f"{host} has {len(names)} elsewhere: {names[0]}" for host, names in left.items())
        raise Failure(f"not all have moved within {timeout_s:g} s: {said}; everything counts wherever it stands")
    return census
