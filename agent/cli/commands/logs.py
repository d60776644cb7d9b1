"""`shoal logs`: requests to a service on all its hosts at once, as they end, or the last ones; or what programs say."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from agent.cli.agent_client import API
from agent.cli.failure import Exit, Failure
from agent.cli.following import Follower, note_missing, read_on, told_by_hosts
from agent.cli.local_agent import refuse_unknown
from agent.cli.options import Options
from agent.cli.printing import Printer
from agent.cli.running.output import follow_output, show_output

MAX_WHY: Final = 160
LATEST_S: Final = 253_402_300_800
"""The year 10000: what an agent says of a time behind it is none."""
_OPTIONS: Final = {"slower_s": "slower", "caller": "as", "direction": "side"}
REQUESTS: Final = f"{API}/requests"


Service = Annotated[str, typer.Argument(help="A service, or a pattern as '*.production'; without it, every request.")]
Statuses = Annotated[list[str] | None, typer.Option("--status", metavar="STATUS", help="404, 5xx; may be repeated.")]
Slower = Annotated[
    str, typer.Option("--slower", metavar="TIME", help="Only those that took so long, or longer: 200ms.")
]
Start = Annotated[str, typer.Option("--path", metavar="START", help="Only paths that begin so: /cats.")]
Caller = Annotated[str, typer.Option("--as", metavar="SERVICE", help="Only calls of this service.")]
Method = Annotated[str, typer.Option("--method", help="Only this method.")]
Side = Annotated[
    str, typer.Option("--side", metavar="SIDE", help="Only as callers' agents saw them (out), or the instances' (in).")
]
Flag = Annotated[str, typer.Option("--flag", metavar="START", help="Only flags that begin so: service.")]
Failed = Annotated[bool, typer.Option("--failed", help="Only those with a flag, or answered with 5xx.")]
"""Which requests: of `shoal logs` and `shoal tap`."""


def logs(
    context: typer.Context,
    service: Service = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with requests as they end, until Ctrl-C.")
    ] = False,
    status: Statuses = None,
    slower: Slower = "",
    path: Start = "",
    caller: Caller = "",
    method: Method = "",
    side: Side = "",
    flag: Flag = "",
    failed: Failed = False,
    last: Annotated[
        int, typer.Option("--last", "-n", min=1, max=1000, help="So many of each host that were recorded lately.")
    ] = 20,
    program: Annotated[
        bool, typer.Option("--program", help="Not requests, but what programs of `shoal run --logs` write.")
    ] = False,
    instance: Annotated[str, typer.Option("--instance", metavar="ID", help="With --program: only this one.")] = "",
    stream: Annotated[
        str, typer.Option("--stream", metavar="NAME", help="With --program: only stdout, only stderr.")
    ] = "",
    contains: Annotated[
        str, typer.Option("--contains", metavar="TEXT", help="With --program: only lines with this in them.")
    ] = "",
) -> None:
    """Requests to a service, on all its hosts at once: the last ones that were recorded; with `-f`, as they end.

    `-f` needs no access log: agents pick what is asked for, while somebody asks. What there was no room for is told, by
    host, and so is who does not answer.

    Example:  shoal logs pets.production -f --status 5xx --slower 200ms --path /cats --as shop.production
    """
    options: Options = context.obj
    asked = asked_of(service, status, slower, path, caller, method, side, flag, failed=failed)
    if program:
        source = context.get_parameter_source("last")
        given = source is not None and source.name != "DEFAULT"
        count = str(last) if given or not follow else ""
        wanted = {"instance": instance, "stream": stream, "contains": contains, "last": count}
        _of_programs(options, asked, wanted, follow=follow)
    elif instance or stream or contains:
        said = ", ".join(f"--{name}" for name in ("instance", "stream", "contains") if context.params[name])
        raise Failure(f"{said}: for what programs write; it goes with --program", Exit.USAGE)
    elif follow:
        _note_unknown(options, asked)
        read_on(options.admin, REQUESTS, asked, Following(options.printer, asked))
    else:
        _show_last(options, asked, last)


def _of_programs(options: Options, asked: Mapping[str, str], wanted: Mapping[str, str], *, follow: bool) -> None:
    if others := [name for name in asked if name != "service"]:
        said = ", ".join(f"--{_OPTIONS.get(name, name)}" for name in others)
        raise Failure(
            f"--program: {said} is for requests; --instance, --stream, --contains, --last and -f go with it", Exit.USAGE
        )
    query = {name: text for name, text in {**asked, **wanted}.items() if text}
    if follow:
        _note_unknown(options, asked)
        follow_output(options.admin, options.printer, query)
    else:
        show_output(options.admin, options.printer, query, lambda: refuse_unknown(options, asked.get("service", "")))


def _note_unknown(options: Options, asked: Mapping[str, str]) -> None:
    """Who follows waits for what may come, and is told that it is not there so far."""
    try:
        refuse_unknown(options, asked.get("service", ""))
    except Failure as failure:
        options.printer.note(f"{failure.message}; waiting for it")


# The last ones.


def _show_last(options: Options, asked: Mapping[str, str], last: int) -> None:
    printer = options.printer
    told = told_by_hosts(options.admin.get(REQUESTS, {**asked, "last": str(last)}.items()))
    rows = sorted(_rows(told), key=_when)
    if not rows:
        refuse_unknown(options, asked.get("service", ""))
    if printer.json:
        printer.value({"requests": rows, "missing": told["missing"], "unrecorded": _unrecorded(told)})
    else:
        for row in rows:
            printer.text(line(row))
    note_missing(printer, told["missing"])
    unrecorded = _unrecorded(told)
    if unrecorded:
        printer.note(
            f"nothing is recorded by {', '.join(unrecorded)}: no sink takes access records there; -f needs none"
        )
    elif not rows:
        printer.note("no such request among the last that were recorded; -f waits for one")
    if told["missing"]:
        raise typer.Exit(Exit.UNKNOWN)


def _unrecorded(told: Mapping[str, Any]) -> list[str]:
    return sorted(host for host, each in told["hosts"].items() if not each.get("recorded"))


# From now on.


class Following(Follower):
    """Somebody who follows requests."""

    def __init__(self, printer: Printer, asked: Mapping[str, str]) -> None:
        super().__init__(printer, _words(asked))

    def tell(self, told: Mapping[str, Any]) -> None:
        """Rows, and how many are lost."""
        for row in _rows(told):
            if not self.over:
                self.show(row)
        for host, each in sorted(told["hosts"].items()):
            if each.get("lost"):
                self._printer.note(f"{host}: {each['lost']} more that there was no room for")
            if each.get("begun"):
                self._printer.note(f"{host}: it has begun anew; what ended meanwhile is not known")

    def show(self, row: Mapping[str, Any]) -> None:
        """One request."""
        if self._printer.json:
            self._printer.line(row)
        else:
            self._printer.text(line(row))


def _words(asked: Mapping[str, str]) -> str:
    """What somebody follows."""
    names = {"slower_s": "slower than", "caller": "as", "direction": "side", "headers": "with", "bodies": "with"}
    rest = [
        f"{names.get(name, name)} {name if value == 'true' else value}"
        for name, value in asked.items()
        if name not in ("service", "failed")
    ]
    what = "failed requests" if "failed" in asked else "requests"
    return ", ".join([f"{what} to {asked.get('service') or 'every service'}", *rest])


# Rows.


def _rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each with its host; in order by host."""
    return [{"agent": host, **{name: item[name] for name in item if name != "agent"}} for host, item in _items(told)]


def _items(told: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for host, each in sorted(told["hosts"].items()):
        for item in each["items"]:
            if isinstance(item, dict):
                yield host, item


def _when(row: Mapping[str, Any]) -> float:
    at = row.get("time")
    return float(at) if isinstance(at, int | float) and 0 <= at < LATEST_S else 0.0


def line(row: Mapping[str, Any]) -> str:
    """For people: when, which agent, from whom to whom, what, and what came of it."""
    arrow = "→" if row.get("direction") == "outbound" else "←"
    endpoint = f"/{row['endpoint']}" if row.get("endpoint") else ""
    who = f"{row.get('caller') or '-'} {arrow} {row.get('service') or row.get('host') or '-'}{endpoint}"
    said = [clock(row), str(row.get("agent", "-")), who, f"{row.get('method', '-')} {row.get('target', '-')}"]
    return "  ".join([*said, row_end(row)])


def clock(row: Mapping[str, Any]) -> str:
    """When it began, by the clock of this host."""
    at = _when(row)
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}" if at else "-"


def row_end(row: Mapping[str, Any]) -> str:
    """What came of it."""
    took = row.get("duration_s")
    took = f"{took * 1000:.1f}ms" if isinstance(took, int | float) else "-"
    said = [str(row.get("status", "-")), took]
    tries = row.get("attempts", 0)
    if isinstance(tries, int) and tries > 1:
        said.append(f"{tries} tries")
    if row.get("flag"):
        said.append(str(row["flag"]))
    if row.get("why"):
        said.append(str(row["why"])[:MAX_WHY])
    return "  ".join(said)


# What is asked.


def asked_of(
    service: str,
    status: list[str] | None,
    slower: str,
    path: str,
    caller: str,
    method: str,
    side: str,
    flag: str,
    *,
    failed: bool,
) -> dict[str, str]:
    """Which requests, as agents are asked for them. Raises Failure."""
    query = {
        "service": _service(service),
        "status": ",".join(status or ()),
        "slower_s": _seconds(slower),
        "path": path,
        "caller": _caller(caller),
        "method": method.upper(),
        "direction": _direction(side),
        "flag": flag,
        "failed": "true" if failed else "",
    }
    return {name: value for name, value in query.items() if value}


def _service(text: str) -> str:
    from policies.language.names import parse_pattern

    try:
        return parse_pattern(text) if text else ""
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _caller(text: str) -> str:
    from policies.language.names import parse_service

    try:
        return text if not text or "://" in text else parse_service(text)
    except ValueError as error:
        raise Failure(f"--as: {error}", Exit.USAGE) from None


def _seconds(text: str) -> str:
    from policies.language.duration import seconds

    try:
        return str(seconds(text)) if text else ""
    except ValueError as error:
        raise Failure(f"--slower: {error}", Exit.USAGE) from None


def _direction(text: str) -> str:
    found = {"": "", "in": "inbound", "out": "outbound"}.get(text)
    if found is None:
        raise Failure(f"--side {text!r}: in or out", Exit.USAGE)
    return found
