"""`shoal wait`: until every live agent runs a revision. "Has my policy arrived?" has an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent.cli.failure import Failure
from agent.cli.options import Options

if TYPE_CHECKING:
    from agent.cli.census import Census
    from registry.store import Store

ASK_EVERY_S = 0.05
TIMEOUT_S = 30.0


class Laggard(msgspec.Struct, frozen=True):
    """A live agent that does not run the revision yet."""

    host: str
    runs: int
    """0: it has not said yet what it runs."""

    def __str__(self) -> str:
        return f"{self.host} runs {self.runs}" if self.runs else f"{self.host} has not said what it runs"


def laggards(census: Census, revision: int) -> list[Laggard]:
    """The live agents, those with a lease, whose slowest worker is behind a revision."""
    runs = {host: census.acks[host].revision if host in census.acks else 0 for host in census.agents}
    return [Laggard(host, ran) for host, ran in sorted(runs.items()) if ran < revision]


def wait(
    context: typer.Context,
    revision: Annotated[
        int, typer.Argument(min=0, help="Without it: the newest change of the mesh.", show_default=False)
    ] = 0,
    timeout_s: Annotated[float, typer.Option("--timeout", "-t", min=0, help="Seconds.")] = TIMEOUT_S,
) -> None:
    """Wait until every live agent runs a revision of etcd, in all its workers. Exit code 1 if they do not in time.

    Example:  etcdctl put … && shoal wait
    """
    wait_until(context.obj, revision, timeout_s)


def wait_until(options: Options, revision: int = 0, timeout_s: float = TIMEOUT_S) -> None:
    """Returns when every live agent runs `revision`, or the newest change. Raises Failure that names who lags."""
    from agent.cli.asking import ask

    wanted, agents, left = ask(options, lambda store: _waited(store, options.mesh, revision, timeout_s))
    if options.printer.json:
        options.printer.value({"revision": wanted, "agents": agents, "lagging": msgspec.to_builtins(left)})
    if left:
        raise Failure(
            f"after {timeout_s:g} s revision {wanted} is not in force everywhere: {'; '.join(map(str, left))}"
        )
    if not agents:
        raise Failure(f"no agent is alive in the mesh {options.mesh!r}: there is nobody to run revision {wanted}")
    options.printer.note(f"revision {wanted} is in force on {agents} {'agent' if agents == 1 else 'agents'}")


async def spread(store: Store, mesh: str, revision: int) -> None:
    """Returns when every live agent runs a revision; whoever calls bounds it in time."""
    import trio

    from agent.cli.census import take

    while True:
        if not laggards(await take(store, mesh, "agents", "acks"), revision):
            return
        await trio.sleep(ASK_EVERY_S)


async def _waited(store: Store, mesh: str, revision: int, timeout_s: float) -> tuple[int, int, list[Laggard]]:
    import trio

    from agent.cli.census import take

    wanted = revision or (await take(store, mesh)).newest
    with trio.move_on_after(timeout_s):
        await spread(store, mesh, wanted)
    census = await take(store, mesh, "agents", "acks")
    return wanted, len(census.agents), laggards(census, wanted)
