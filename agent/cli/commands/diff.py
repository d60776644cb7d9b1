"""`shoal diff`: what a candidate answers otherwise than those that serve, as all agents of the mesh counted it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer, Row, field

MAX_ROWS = 50
"""Fields in a table; JSON has them all."""


def diff(
    context: typer.Context,
    service: Annotated[
        str, typer.Argument(help="Whose candidate it is, such as `pets.production`.", autocompletion=services)
    ],
) -> None:
    """Show which fields a candidate answers otherwise, beyond the noise; counted by all agents, and added up here.

    A `shadow` policy with `compare` has requests answered by a candidate too. Exit code 0 when there is no regression,
    1 when there is one, 4 while too few requests were compared to know: a release decision can act on it.

    Example:  shoal diff pets.production && echo release it
    """
    from agent.cli.etcd_client import ask
    from agent.figures.compared import NotCompared, gathered
    from policies.language.names import parse_service

    options: Options = context.obj
    try:
        name = parse_service(service)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    try:
        found = ask(options, lambda store: gathered(store, options.mesh, name))
    except NotCompared as error:
        raise Failure(str(error)) from None
    if options.printer.json:
        options.printer.value(found)
    else:
        show(options.printer, found)
    if found["outcome"] != "equal":
        raise typer.Exit(Exit.NO if found["outcome"] == "regression" else Exit.UNKNOWN)


# For people.

_SAID = {
    "equal": "no regression",
    "regression": "REGRESSION",
    "unknown": "too few requests were compared to know",
}


def show(printer: Printer, found: dict[str, Any]) -> None:
    """A table of fields, and what to make of it."""
    fields = found["fields"]
    printer.rows(
        [_row(verdict) for verdict in fields[:MAX_ROWS]],
        {
            "field": field("field"),
            "raw": field("raw"),
            "noise": field("noise"),
            "of": lambda row: str(found["total"]),
            "verdict": field("verdict"),
            "primary": field("primary"),
            "candidate": field("candidate"),
            "request": field("request"),
        },
        empty="no field differed",
    )
    if len(fields) > MAX_ROWS:
        printer.note(f"and {len(fields) - MAX_ROWS} fields more, which --output json shows")
    printer.text("")
    printer.text(_said(found))
    for host, reason in sorted(found["left_out"].items()):
        printer.note(f"{host} is left out: {reason}")


def _row(verdict: dict[str, Any]) -> Row:
    example = verdict["examples"][0] if verdict["examples"] else {}
    named = {name: example.get(name) for name in ("primary", "candidate", "request")}
    return {**verdict, "verdict": "regression" if verdict["regression"] else "noise", **named}


def _said(found: dict[str, Any]) -> str:
    least = found["thresholds"]["min_requests"]
    agents = len(found["agents"])
    parts = [f"{_SAID[found['outcome']]}: {found['total']} requests compared by {agents} agent{'s' * (agents != 1)}"]
    if found["outcome"] == "unknown":
        parts.append(f"at least {least:g} are needed")
    medians = [f"{role} {1000 * value:.3g} ms" for role, value in found["median_s"].items() if value is not None]
    if medians:
        parts.append(f"median {', '.join(medians)}")
    skipped = sum(found["skipped"].values())
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found["skipped"].items())
        parts.append(f"{skipped} not compared ({reasons})")
    return "; ".join(parts)
