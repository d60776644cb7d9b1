"""`shoal scale`: how many instances services should have, by their `scale` policies, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Row, field


def scale(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="Only this one.", autocompletion=services)] = "",
) -> None:
    """Show how many instances services should have, of how many there are, and the reason.

    Exit code 1 when a service that was asked for has no advice.

    Example:  shoal scale auth
    """
    from agent.cli.agent_client import API, Refused
    from policies.language.names import parse_service

    options: Options = context.obj
    try:
        name = parse_service(service) if service else ""
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    query = [("scope", "mesh"), ("limit", "1000"), *([("service", name)] if name else [])]
    try:
        told = options.admin.get(f"{API}/scale", query)
    except Refused as refused:
        if refused.status == 404:
            raise Failure("that agent is of the version before, and knows of no advice; ask another") from None
        raise
    rows = told["items"]
    options.printer.rows(rows, COLUMNS, empty="nothing is scaled; docs/policies/scale.md says how")
    for host, missing in told["missing"].items():
        options.printer.note(f"missing: {host}: {missing['reason']} ({missing['why']})")
    if name and not rows:
        raise typer.Exit(Exit.NO)


def _advice(row: Row) -> str:
    there, wanted = row["instances"], row["replicas"]
    return str(wanted) if there == wanted else f"{there} -> {wanted}"


def _mode(row: Row) -> str:
    return f"{row['mode']}, panic" if row["panic"] else str(row["mode"])


COLUMNS: dict[str, Any] = {
    "service": field("service"),
    "instances": _advice,
    "range": lambda row: f"{row['least']}-{row['most']}",
    "mode": _mode,
    "policy": lambda row: f"{row['policy']} @{row['revision']}",
    "reason": field("reason"),
}
