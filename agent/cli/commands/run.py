"""`shoal run`: any program as an instance of a service, or several copies of it."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.agent_client import API
from agent.cli.commands.register import (
    HealthOption,
    IdOption,
    IntervalOption,
    MetadataOption,
    ServiceOption,
    VersionOption,
    WeightOption,
    ZoneOption,
    order,
)
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options

RENEW_WITHIN = "20s"
"""When we are killed, the agent ends the registration after this long."""


def run(
    context: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- CMD …", help="{port} and {host} in it are where to listen; $PORT, $HOST too."),
    ],
    service: ServiceOption,
    version: VersionOption = "",
    health: HealthOption = "",
    interval: IntervalOption = "",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Where it listens; 0: a free one.")] = 0,
    id: IdOption = "",
    address: Annotated[str, typer.Option(help="Where it listens; else 127.0.0.1, or in a container the agent's.")] = "",
    weight: WeightOption = 100,
    zone: ZoneOption = "",
    metadata: MetadataOption = None,
    spread_s: Annotated[float, typer.Option("--spread", help="Seconds at most for word of the end to spread.")] = 5.0,
    grace_s: Annotated[float, typer.Option("--grace", help="Seconds at most between SIGTERM and SIGKILL.")] = 30.0,
    logs: Annotated[
        bool, typer.Option("--logs", help="The agent also keeps what the program writes: `shoal logs --program`.")
    ] = False,
    replicas: Annotated[
        str, typer.Option(metavar="N|auto", help="So many copies; `auto`: as many as a scale policy advises.")
    ] = "",
) -> None:
    """Run any program as an instance of a service.

    Picks a free port, registers the program with the agent on this host, and sets HTTP_PROXY so that its own calls go
    through the mesh under its own name. It is to listen at $HOST and $PORT. Signals are passed on. When it is to end,
    it is deregistered first, so that no request is lost. The exit code is the program's.

    Example:  shoal run --service pets.production --version v2 --health /health -- python app.py --port {port}
    """
    import trio

    from agent.cli.running.instance import Instance
    from agent.cli.running.place import choose

    options: Options = context.obj
    if logs and not options.admin.place.startswith("/"):
        raise Failure("--logs: takes the agent's own socket, and not an address; leave --admin out", Exit.USAGE)
    if replicas:
        if port or id:
            raise Failure("--replicas: each copy has a port and an id of its own; leave --port, --id out", Exit.USAGE)
        raise typer.Exit(_several(options, service, replicas))
    place = choose(options.admin, address, port)
    body = order(
        service,
        place.port,
        version=version,
        health=health,
        interval=interval,
        id=id,
        address=place.address,
        weight=weight,
        zone=zone,
        metadata=metadata,
    )
    body["renew_within"] = RENEW_WITHIN
    raise typer.Exit(trio.run(Instance(options, body, place, spread_s, grace_s, logs=logs).live, command))


def _several(options: Options, service: str, replicas: str) -> int:
    """Copies of it, each a `shoal run` of its own."""
    from secrets import token_hex

    import trio

    from agent.cli.running.replicas import Replicas, number_of, orig_command

    count, mark = number_of(replicas), token_hex(4)

    def wanted() -> int | None:
        return None if count else advised(options, service, mark)

    return trio.run(Replicas(orig_command(mark), count or 1, wanted, options.printer.note).live)


def advised(options: Options, service: str, mark: str) -> int | None:
    """How many of the service's instances should be here: those that others run are there already."""
    from agent.cli.running.replicas import MARK

    try:
        advice: int = options.admin.get(f"{API}/scale/{service}")["replicas"]
        known = options.admin.get(f"{API}/instances", [("service", service), ("limit", "1000")])
        others = [each for each in known["items"] if each["metadata"].get(MARK) != mark]
        there: int = sum(each["state"] != "draining" for each in others)
        return advice - there
    except (Failure, KeyError, TypeError, ValueError):
        return None  # nothing is advised, or nobody can be asked
