"""`shoal services` and `instances`: what there is, and how it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.completion import services as completed
from agent.cli.failure import Exit, Failure
from agent.cli.local_agent import suspects
from agent.cli.options import Options
from agent.cli.printing import Row, field

if TYPE_CHECKING:
    from registry.census import Census

SHOWN = (
    "service",
    "id",
    "address",
    "port",
    "version",
    "zone",
    "weight",
    "agent",
    "state",
    "since",
    "reason",
    "metadata",
)
"""Of an instance."""


def services(context: typer.Context) -> None:
    """List the services, their instances and the policies that are in force for each."""
    options: Options = context.obj
    rows = service_rows(_census(options), suspects(options))
    options.printer.rows(
        rows,
        {
            "service": field("service"),
            "healthy": _healthy,
            "versions": lambda row: _counted(row["versions"]),
            "policies": lambda row: " ".join(row["policies"]) or "-",
        },
        empty=f"no service in the mesh {options.mesh!r} yet; `shoal run --service hello -- CMD` makes one",
    )


def instances(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="pets.production; without it: all.", autocompletion=completed)] = "",
) -> None:
    """List instances: where they are, whose they are, and how they are."""
    options: Options = context.obj
    wanted = _parsed(service)
    found = instance_rows(_census(options), suspects(options, wanted))
    rows = [row for row in found if not wanted or row["service"] == wanted]
    options.printer.rows(
        rows,
        {
            "service": field("service"),
            "id": field("id"),
            "address": lambda row: join_host(row["address"], row["port"]),
            "version": field("version"),
            "zone": field("zone"),
            "weight": lambda row: f"{row['weight']:g}",
            "agent": field("agent"),
            "state": field("state"),
            "since": field("since"),
            "reason": field("reason"),
        },
        empty=f"no instance of {wanted}" if wanted else f"no instance in the mesh {options.mesh!r}",
    )
    if wanted and not rows:
        raise typer.Exit(Exit.NO)


def _healthy(row: Row) -> str:
    kept = row["suspects"]
    said = f", {kept} suspect{'s' if kept > 1 else ''}" if kept else ""
    return row["imported"] or f"{row['healthy']}/{row['instances']}{said}"


def service_rows(census: Census, suspected: Sequence[Row] = ()) -> list[Row]:
    """One row a service that has instances or a policy of its own, by name. `suspected`: as `instance_rows`."""
    from policies.language.names import candidates

    rows: list[Row] = []
    states = {(row["service"], row["id"]): row["state"] for row in instance_rows(census)}
    kept = Counter(row["service"] for row in suspected if (row["service"], row["id"]) not in census.instances)
    own = {service for _, service in census.policies if "*" not in service}
    for service in sorted({service for service, _ in census.instances} | own | kept.keys()):
        mine = {id: instance for (owner, id), instance in census.instances.items() if owner == service}
        patterns = candidates(service)
        kinds = sorted({kind for kind, pattern in census.policies if pattern in patterns})
        rows.append(
            {
                "service": service,
                "instances": len(mine),
                "healthy": sum(states[service, id] in ("healthy", "unchecked") for id in mine),
                "suspects": kept[service],
                "imported": "" if mine else _imported(census, service),
                "versions": _tally(instance.version for instance in mine.values()),
                "policies": [_in_force(census, kind, patterns) for kind in kinds],
            }
        )
    return rows


def _imported(census: Census, service: str) -> str:
    """From which trust domain a service is, that another mesh has; empty: from none."""
    from policies.catalogue import parse
    from policies.kinds.import_.document import Import

    policy = census.policies.get(("import", service))
    found = parse("import", service, policy.text) if policy is not None else None
    return f"in {found.trust_domain}" if isinstance(found, Import) and found.mode == "enforce" else ""


def instance_rows(census: Census, suspected: Sequence[Row] = ()) -> list[Row]:
    """One row an instance, by service and id. `suspected`: those that stand in etcd no more, and are kept."""
    rows: list[Row] = []
    for (service, id), instance in sorted(census.instances.items()):
        health = census.health.get((service, id))
        state = "unchecked" if health is None else "healthy" if health.healthy else "unhealthy"
        if instance.state == "draining":
            state = "draining"
        rows.append(
            {
                "service": service,
                "id": id,
                "address": instance.address,
                "port": instance.port,
                "version": instance.version,
                "zone": instance.zone,
                "weight": instance.weight,
                "agent": instance.agent,
                "state": state,
                "since": health.since if health else "",
                "reason": health.reason if health else "",
                "metadata": instance.metadata,
            }
        )
    gone = [{name: row.get(name, "") for name in SHOWN} for row in suspected if _place(row) not in census.instances]
    return sorted([*rows, *gone], key=_place)


def _place(row: Row) -> tuple[str, str]:
    return row["service"], row["id"]


def join_host(address: str, port: int) -> str:
    """`10.0.0.5:80`, `[::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _in_force(census: Census, kind: str, patterns: Sequence[str]) -> str:
    """Which of the policies of a kind wins, as `route` or `route(*.production)`; or which apply: `tls(pets,*)`."""
    from policies.catalogue import BY_NAME

    exact, *_ = patterns
    found = [pattern for pattern in patterns if (kind, pattern) in census.policies]
    if kind not in BY_NAME or not BY_NAME[kind].every_level:
        found = found[:1]
    return kind if found == [exact] else f"{kind}({','.join(found)})"


def _tally(names: Iterable[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for name in sorted(names):
        counted[name] = counted.get(name, 0) + 1
    return counted


def _counted(versions: dict[str, int]) -> str:
    return " ".join(f"{version or '(none)'}×{count}" for version, count in versions.items()) or "-"


def _census(options: Options) -> Census:
    from agent.cli.etcd_client import ask
    from registry.census import take

    return ask(options, lambda store: take(store, options.mesh))


def _parsed(service: str) -> str:
    from policies.language.names import parse_service

    try:
        return parse_service(service) if service else ""
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
