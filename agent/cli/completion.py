"""What a shell completes: kinds, services and patterns, as etcd has them; and the shared options behind every command.

Laws
- Who presses Tab waits for a second at most, and is never shown an error: what cannot be asked completes to nothing.
- Shells ask for completion with the words so far; whatever else stands there (`_SHOAL_COMPLETE`) is Typer's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from registry.census import Census

ASKED: Final = "_SHOAL_COMPLETE"
PATIENCE_S: Final = 1.0


def is_asked(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a shell asks what could stand there, and runs no command."""
    return environment.get(ASKED, "").startswith("complete_")


def widen(command: Any, shared: Iterable[Any] = ()) -> Any:
    """A command, with those below it, that takes the shared options after its name too; to be asked, not to be run."""
    options = [*shared] or [param for param in command.params if param.param_type_name == "option"]
    for inner in getattr(command, "commands", {}).values():
        own = {name for param in inner.params for name in param.opts}
        inner.params += [param for param in options if not own.intersection(param.opts)]
        widen(inner, options)
    return command


def kinds(incomplete: str) -> list[str]:
    """Of policies."""
    from policies.catalogue import BY_NAME

    return [name for name in BY_NAME if name.startswith(incomplete)]


def services(ctx: Any, incomplete: str) -> list[str]:
    """Those that have instances."""
    return _asked(ctx, incomplete, lambda census: {service for service, _ in census.instances}, "instances")


def patterns(ctx: Any, incomplete: str) -> list[str]:
    """Those that have instances, and whatever policies are for."""

    def named(census: Census) -> set[str]:
        return {service for service, _ in census.instances} | {pattern for _, pattern in census.policies}

    return _asked(ctx, incomplete, named, "instances", "policies")


def hosts(ctx: Any, incomplete: str) -> list[str]:
    """Those whose agents live."""
    return _asked(ctx, incomplete, lambda census: set(census.agents), "agents")


def ids(ctx: Any, incomplete: str) -> list[str]:
    """Of the instances of the service that was named before."""
    service = ctx.params.get("service")

    def named(census: Census) -> set[str]:
        return {id for owner, id in census.instances if service in (None, "", owner)}

    return _asked(ctx, incomplete, named, "instances")


def urls(ctx: Any, incomplete: str) -> list[str]:
    """A service's, to be gone on with."""
    begun = incomplete or "http://"
    found = {f"http://{service}/" for service in services(ctx, "")}
    return sorted(url for url in found if url.startswith(begun))


def _asked(ctx: Any, incomplete: str, names: Callable[[Census], set[str]], *rooms: str) -> list[str]:
    import trio

    from agent.cli.etcd_client import asked
    from agent.cli.failure import Failure
    from registry.census import take

    async def census() -> Census | None:
        options = _options(ctx)
        with trio.move_on_after(PATIENCE_S):
            return await asked(options, lambda store: take(store, options.mesh, *rooms))
        return None

    try:
        found = trio.run(census)
    except (Failure, ValueError):
        return []
    return sorted(name for name in names(found) if name.startswith(incomplete)) if found is not None else []


def _options(ctx: Any) -> Any:
    """As they were given before or after the command's name."""
    from agent.cli.options import given

    told: dict[str, Any] = dict(ctx.find_root().params)
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name)
        if param.name in told and source is not None and source.name == "COMMANDLINE":
            told[param.name] = ctx.params[param.name]
    told.pop("version", None)
    return given(**told)
