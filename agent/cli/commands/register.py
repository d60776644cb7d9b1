"""`shoal register` and `shoal deregister`: instances that run on their own, entrusted to the agent on this host."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from agent.cli.completion import ids, services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.running.registering import deregistered, new_token, registered

ServiceOption = Annotated[
    str, typer.Option("--service", "-s", help="Its service, such as pets.production.", autocompletion=services)
]
VersionOption = Annotated[str, typer.Option("--version", "-v", help="Its version, such as v2.")]
HealthOption = Annotated[
    str,
    typer.Option(
        "--health", metavar="PATH", help="HTTP path that the agent checks; without one: that the port listens."
    ),
]
IntervalOption = Annotated[
    str, typer.Option("--health-interval", metavar="TIME", help="How often it is checked, such as 500ms.")
]
IdOption = Annotated[str, typer.Option("--id", help="Its name among the instances; one is made up without it.")]
WeightOption = Annotated[float, typer.Option("--weight", help="Share of traffic relative to others.")]
ZoneOption = Annotated[str, typer.Option("--zone", help="Where it runs; without it: the zone of the agent.")]
MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", metavar="NAME=VALUE", help="A label; may be repeated.")
]


def order(
    service: str,
    port: int,
    *,
    version: str = "",
    health: str = "",
    interval: str = "",
    id: str = "",
    address: str = "",
    weight: float = 100,
    zone: str = "",
    metadata: list[str] | None = None,
) -> dict[str, Any]:
    """The body of a registration. Raises Failure for what the agent could not but refuse."""
    from policies.language.names import parse_service

    try:
        body: dict[str, Any] = {"service": parse_service(service), "port": port, "weight": weight}
    except ValueError as error:
        raise Failure(f"--service: {error}", Exit.USAGE) from None
    named = {"id": id, "address": address, "version": version, "zone": zone, "metadata": labels(metadata or [])}
    body |= {name: value for name, value in named.items() if value}
    if health:
        body["health"] = {"http": {"path": _checked_path(health)}}
    if interval:
        body.setdefault("health", {"tcp": {}})["interval"] = interval
    return body


def labels(pairs: list[str]) -> dict[str, str]:
    """`["tier=free"]` as a mapping. Raises Failure."""
    split = [pair.partition("=") for pair in pairs]
    for (name, equals, _), pair in zip(split, pairs, strict=True):
        if not name or not equals:
            raise Failure(f"--metadata {pair!r} is no NAME=VALUE such as tier=free", Exit.USAGE)
    return {name: value for name, _, value in split}


def register(
    context: typer.Context,
    service: ServiceOption,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Where it listens.")],
    version: VersionOption = "",
    health: HealthOption = "",
    interval: IntervalOption = "",
    id: IdOption = "",
    address: Annotated[str, typer.Option(help="Where it listens, if not at the agent's own address.")] = "",
    weight: WeightOption = 100,
    zone: ZoneOption = "",
    metadata: MetadataOption = None,
    renew_within: Annotated[
        str, typer.Option(metavar="TIME", help="It ends if it is not registered again within, such as 30s.")
    ] = "",
) -> None:
    """Entrust an instance that runs already to the agent on this host, which checks it and keeps it registered.

    Prints its id, and the HTTP_PROXY with its token, which is shown this once (`shoal token` makes another). It stays
    until `shoal deregister`, over restarts of the agent, or with --renew-within as long as this is said again and
    again; what is registered with the same port later, as another service, takes its place.

    Example:  shoal register --service pets.production --version v1 --port 8080 --health /health
    """
    options: Options = context.obj
    body = order(
        service,
        port,
        version=version,
        health=health,
        interval=interval,
        id=id,
        address=address,
        weight=weight,
        zone=zone,
        metadata=metadata,
    )
    if renew_within:
        body["renew_within"] = renew_within
    answer = registered(options.admin, body)
    for other in answer.replaced:
        options.printer.note(f"{other} was registered with this port, and is taken out")
    if options.printer.json:
        options.printer.value(msgspec.to_builtins(answer))
        return
    options.printer.text(answer.id)
    if answer.proxy:
        options.printer.note(f"its own calls go through the mesh with HTTP_PROXY={answer.proxy}")


def deregister(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="pets.production", autocompletion=services)],
    id: Annotated[
        str, typer.Argument(help="The id that `register` printed, or `shoal instances` shows.", autocompletion=ids)
    ],
) -> None:
    """Take an instance out of the mesh: no agent sends it another request; those in flight are finished.

    Example:  shoal deregister pets.production pets-1
    """
    options: Options = context.obj
    deregistered(options.admin, service, id)
    options.printer.note(f"{service}/{id} is deregistered")


def token(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="pets.production", autocompletion=services)],
    id: Annotated[str, typer.Argument(help="The id of an instance of this host.", autocompletion=ids)],
) -> None:
    """Make a new token for an instance: one that agent.toml declares, or one whose token was lost or became known.

    Prints the HTTP_PROXY with it, this once. The token before is good for ten minutes more.

    Example:  shoal token pets.production web-1-8080
    """
    options: Options = context.obj
    made = new_token(options.admin, service, id)
    if options.printer.json:
        options.printer.value(msgspec.to_builtins(made))
    else:
        options.printer.text(made.proxy)


def _checked_path(path: str) -> str:
    if not path.startswith("/"):
        raise Failure(f"--health {path!r} is no path such as /health", Exit.USAGE)
    return path
