"""`shoal explain`: every decision that a request would meet, in order, told by a worker of the agent on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli.completion import services, urls
from agent.cli.documents import checked
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer, Row, field


def explain(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="GET, POST, …")],
    url: Annotated[
        str, typer.Argument(help="http://pets.production/cats?page=2, or pets.production/cats", autocompletion=urls)
    ],
    caller: Annotated[
        str, typer.Option("--as", metavar="SERVICE", help="The service that calls.", autocompletion=services)
    ] = "",
    address: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="The client's address.")] = "",
    headers: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header; may be repeated.")
    ] = None,
    claims: Annotated[
        list[str] | None,
        typer.Option("--claim", metavar="NAME=VALUE", help="Of a token, as if it was verified; may be repeated."),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="Documents as if they were put: nothing is. May be repeated."),
    ] = None,
) -> None:
    """Tell what would happen to a request, and why, without sending it.

    Every decision comes from the same code that serves real requests, in the order in which a request meets them, with
    the policy that made it and that policy's revision in etcd.

    Example:  shoal explain --as shop.production -H 'x-tier: free' GET http://pets.production/cats
              shoal explain --with route.yaml GET http://pets.production/cats
    """
    options: Options = context.obj
    fields = [checked_header(header).partition(":") for header in headers or []]
    supposed = [checked_claim(claim).partition("=") for claim in claims or []]
    documents = [
        {
            "kind": source.kind,
            "pattern": source.service,
            "mode": "audit" if source.watched else "enforce",
            "text": source.text.decode(),
        }
        for source in checked(options.printer, files or [])
    ]
    answer = options.admin.explain(
        {
            "url": url,
            "method": method.upper(),
            "caller": caller,
            "address": address,
            "headers": [{"name": name.strip(), "value": value.strip()} for name, _, value in fields],
            **({"claims": {name: value for name, _, value in supposed}} if supposed else {}),
            **({"documents": documents} if documents else {}),
        }
    )
    if options.printer.json:
        options.printer.value(answer)
    else:
        show(options.printer, answer)


def checked_header(text: str) -> str:
    """A `name: value` as typed. Raises Failure for one without a name or a colon."""
    name, colon, _ = text.partition(":")
    if not colon or not name.strip():
        raise Failure(f"-H {text!r} is no header such as 'x-tier: free'", Exit.USAGE)
    return text


def checked_claim(text: str) -> str:
    """A `name=value` as typed. Raises Failure for one without a name or a sign."""
    name, sign, _ = text.partition("=")
    if not sign or not name:
        raise Failure(f"--claim {text!r} is no claim such as sub=ann", Exit.USAGE)
    return text


def show(printer: Printer, answer: dict[str, Any]) -> None:
    """Prints an explanation for people: the decisions, and where the request ends."""
    printer.rows(
        answer["decisions"],
        {
            "phase": _phase,
            "policy": _policy,
            "mode": field("mode"),
            "decision": field("decision"),
            "reason": field("reason"),
        },
        empty="no decisions: the request goes straight on",
    )
    for refused in answer.get("refused", []):
        printer.text(f"refused   {_refused(refused)}")
    printer.text("")
    printer.text(f"-> {_end(answer)}")


def _refused(row: Row) -> str:
    """A document that was put, and decides nothing."""
    what = (
        f"{'audits/' * row['watched']}{row['kind']}/{row['pattern']} @{row['revision']}: {row['path']}: {row['reason']}"
    )
    if row["watched"]:
        return what
    if row["closed"]:
        return f"{what}; nobody knows what was good before: requests are refused until it is mended"
    if row["last_good"] > 0:
        return f"{what}; that of revision {row['last_good']} stays in force"
    return f"{what}; there was none before, and there is none: it decides nothing until it is mended"


def _phase(row: Row) -> str:
    return f"{row['phase']} on {row['host']}" if row.get("host") else str(row["phase"])


def _policy(row: Row) -> str:
    policy = row.get("policy")
    return f"{policy} @{row['revision']}" if policy and row.get("revision") else str(policy or "-")


def _end(answer: dict[str, Any]) -> str:
    endpoint = answer.get("endpoint")
    if endpoint is None:
        return f"answered by the mesh itself: {answer.get('status')}"
    version = f", version {endpoint['version']}" if endpoint.get("version") else ""
    via = f", through the agent on {endpoint['via']}" if endpoint.get("via") else ""
    if endpoint.get("expected"):
        via = f", which has to prove that it is {endpoint['expected']}"
    suspect = ", a suspect: its record vanished without a word" if endpoint.get("suspect") else ""
    return f"{endpoint['service']}/{endpoint['id']} at {endpoint['address']}:{endpoint['port']}{version}{via}{suspect}"
