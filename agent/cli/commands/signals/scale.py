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

    Where the agent that advises does not answer: what stands in etcd. Exit code 1 when a service that was asked for has
    no advice, 4 when that is not known.

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
    rows = sorted([*told["items"], *told.get("standing", [])], key=lambda row: str(row["service"]))
    why = _why_not_known(told)
    options.printer.rows(
        rows, COLUMNS, empty="not known" if why else "nothing is scaled; docs/policies/scale.md says how"
    )
    for reason in why:
        options.printer.note(reason)
    if why and not rows:
        raise typer.Exit(Exit.UNKNOWN)
    if name and not rows:
        raise typer.Exit(Exit.NO)


def _why_not_known(told: dict[str, Any]) -> list[str]:
    """Why there may be more advice than what was told; empty: there is not."""
    found = [f"missing: {host}: {each['reason']} ({each['why']})" for host, each in told["missing"].items()]
    if told.get("unread"):
        found.append(f"what stands in etcd cannot be told: {told['unread']}")
    if told.get("unadvised"):
        found.append(f"no agent advises yet, though a document says so: {', '.join(told['unadvised'])}")
    return found


def _advice(row: Row) -> str:
    there, wanted = row.get("instances"), row["replicas"]
    if there is None:
        return str(wanted)
    return str(wanted) if there == wanted else f"{there} -> {wanted}"


def _mode(row: Row) -> str:
    mode = str(row.get("mode", "enforce"))  # of what is only watched nothing stands in etcd
    return f"{mode}, panic" if row["panic"] else mode


def _reason(row: Row) -> str:
    said = str(row["reason"])
    return said if "host" in row else f"{said}; as {row['agent']} put it at {row['at']}: no agent advises now"


COLUMNS: dict[str, Any] = {
    "service": field("service"),
    "instances": _advice,
    "range": lambda row: f"{row['least']}-{row['most']}",
    "mode": _mode,
    "policy": lambda row: f"{row['policy']} @{row['revision']}",
    "reason": _reason,
}
