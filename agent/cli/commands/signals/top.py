"""`shoal top`: golden signals of services, edges and instances of the whole mesh, live."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from agent.cli.completion import patterns
from agent.cli.failure import Exit, Failure
from agent.cli.local_agent import refuse_unknown
from agent.cli.options import Options

EVERY_S = 2.0
Sort = Literal["rate", "errors", "error_rate", "p50", "p90", "p99", "in_flight", "pending", "cpu", "name"]


def top(
    context: typer.Context,
    service: Annotated[
        str, typer.Argument(help="A service, or a pattern: `*.production`.", autocompletion=patterns)
    ] = "*",
    edges: Annotated[bool, typer.Option("--edges", help="A row for each caller of it.")] = False,
    instances: Annotated[bool, typer.Option("--instances", help="A row for each instance.")] = False,
    versions: Annotated[bool, typer.Option("--versions", help="A row for each version.")] = False,
    routes: Annotated[bool, typer.Option("--routes", help="A row for each route.")] = False,
    caller: Annotated[str, typer.Option(help="Only what a service calls.", autocompletion=patterns)] = "",
    sort: Annotated[Sort, typer.Option(help="The largest first; `name`: by name.")] = "rate",
    last_s: Annotated[int, typer.Option("--last", min=10, max=3600, help="Of so many seconds.")] = 60,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many rows.")] = 50,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
) -> None:
    """Show golden signals of the whole mesh, live: how many requests, how many failed, how long they took.

    Keys: `q` ends it, `s` sorts by the next column, arrows and Enter lead into a row, Esc back; `e` edges, `i`
    instances, `v` versions, `r` routes, `+` and `-` the time that is looked at. Without a terminal it is printed once.

    Example:  shoal top lamps --edges
    """
    from agent.cli.top.looking import SORTS, Looking
    from policies.language.names import parse_pattern, parse_service

    options: Options = context.obj
    chosen = [by for by, is_wanted in _by(edges, instances, versions, routes).items() if is_wanted]
    if len(chosen) > 1:
        raise Failure("one of --edges, --instances, --versions and --routes: a row is of one of them", Exit.USAGE)
    try:
        pattern, calling = parse_pattern(service), parse_service(caller) if caller else ""
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    by = chosen[0] if chosen else "edge" if calling else "service"
    if by == "instance" and calling:
        raise Failure("--caller: instances are counted for all callers together; leave one of both out", Exit.USAGE)
    if sort not in (*SORTS[by], "error_rate", "p90"):
        raise Failure(f"--sort {sort}: a row of one {by} has {', '.join(SORTS[by])}", Exit.USAGE)
    looking = Looking(pattern, by, sort, last_s, calling)
    if once or options.printer.json or not _is_live():
        _once(options, looking, limit)
    else:
        _live(options, looking, limit)


def _by(edges: bool, instances: bool, versions: bool, routes: bool) -> dict[str, bool]:
    return {"edge": edges, "instance": instances, "version": versions, "route": routes}


def _is_live() -> bool:
    from agent.cli.printing import is_terminal

    return is_terminal()


def asked(options: Options, looking: Any, limit: int) -> dict[str, Any]:
    """What the agents tell."""
    from agent.cli.agent_client import API, Refused

    try:
        told = options.admin.get(f"{API}/figures", looking.query(limit))
    except Refused as refused:
        if refused.status == 404:
            raise Failure("that agent is of the version before, and keeps no figures; ask another") from None
        raise
    if not isinstance(told, dict) or not isinstance(told.get("items"), list):
        raise Failure("what answers there is no agent of Shoal: its answer is none of an agent's")
    if not told["items"]:
        refuse_unknown(options, looking.service)
    return told


def _once(options: Options, looking: Any, limit: int) -> None:
    from agent.cli.printing import terminal_width
    from agent.cli.top.drawing import lines, missing, title

    told = asked(options, looking, limit)
    if options.printer.json:
        options.printer.value(told)
        return
    for line in lines(told["items"], looking.by, looking.sort, terminal_width()):
        options.printer.text(line)
    options.printer.note(title(told, looking.service, looking.last_s))
    for line in missing(told):
        options.printer.note(line)


def _live(options: Options, looking: Any, limit: int) -> None:
    """Until q."""
    from agent.cli.printing import Screen
    from agent.cli.top.drawing import lines, missing, title
    from agent.cli.top.looking import HELP, pressed

    told: dict[str, Any] | None = None
    with Screen() as screen:
        while looking is not None:
            problem = ""
            try:
                told = asked(options, looking, limit)
            except Failure as failure:
                if told is None:
                    raise
                problem = failure.message
            rows = told["items"]
            key: str | None = ""
            while key is not None and looking is not None:
                head = problem or title(told, looking.service, looking.last_s)
                drawn = lines(rows, looking.by, looking.sort, screen.width)
                screen.show([head, *drawn], 2 + looking.chosen, [*missing(told), HELP])
                key = screen.key(EVERY_S)
                if key:
                    now = pressed(looking, key, rows)
                    anew = now is None or now._replace(chosen=0) != looking._replace(chosen=0)
                    looking = now
                    if anew:
                        break
