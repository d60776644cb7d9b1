"""`shoal logs`: requests to a service on all its hosts at once, as they end, or the last ones."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from agent.cli.agent_client import API, Admin
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer

WAIT_S: Final = 3.0
AGAIN_S: Final = 1.0
GIVE_UP_S: Final = 60.0
"""For how long an agent that does not answer is asked again, by who follows."""
MAX_WHY: Final = 160
LATEST_S: Final = 253_402_300_800
"""The year 10000: what an agent says of a time behind it is none."""
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
) -> None:
    """Requests to a service, on all its hosts at once: the last ones that were recorded; with `-f`, as they end.

    `-f` needs no access log: agents pick what is asked for, while somebody asks. What there was no room for is told, by
    host, and so is who does not answer.

    Example:  shoal logs pets.production -f --status 5xx --slower 200ms --path /cats --as shop.production
    """
    options: Options = context.obj
    asked = asked_of(service, status, slower, path, caller, method, side, flag, failed=failed)
    if follow:
        read_on(options.admin, REQUESTS, asked, Following(options.printer, asked))
    else:
        _show_last(options.admin, options.printer, asked, last)


# The last ones.


def _show_last(admin: Admin, printer: Printer, asked: Mapping[str, str], last: int) -> None:
    told = _told(admin.get(REQUESTS, {**asked, "last": str(last)}.items()))
    rows = sorted(_rows(told), key=_when)
    if printer.json:
        printer.value({"requests": rows, "missing": told["missing"], "unrecorded": _unrecorded(told)})
    else:
        for row in rows:
            printer.text(line(row))
    _note_missing(printer, told["missing"])
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


def read_on(admin: Admin, place: str, asked: Mapping[str, str], state: Following, until: float = math.inf) -> None:
    """Until Ctrl-C, or no agent has answered for so long; until it has enough, or `until` (monotonic seconds)."""
    answered_at = time.monotonic()
    while not state.over:
        left_s = until - time.monotonic()
        if left_s <= 0:
            return
        query = {**asked, "wait_s": str(round(min(WAIT_S, left_s), 3) if state.next else 0), "next": state.next}
        try:
            told = _told(admin.get(place, query.items()))
        except Failure as failure:
            gone_s = time.monotonic() - answered_at
            if not state.next or failure.code is Exit.USAGE or gone_s > GIVE_UP_S:
                raise
            state.interrupted(failure.message)
            time.sleep(AGAIN_S)
            continue
        answered_at = time.monotonic()
        state.hear(told)


class Following:
    """What somebody who follows was told, and has yet to be."""

    does = "following"
    over = False
    """Whether he has what he wanted."""

    def __init__(self, printer: Printer, asked: Mapping[str, str]) -> None:
        self.next = ""
        self._printer = printer
        self._asked = asked
        self._hosts: set[str] = set()
        self._missing: dict[str, str] = {}
        self._interrupted = False

    def interrupted(self, reason: str) -> None:
        """The agent that is asked does not answer."""
        if not self._interrupted:
            self._printer.note(f"{reason}; asking again")
        self._interrupted = True

    def hear(self, told: Mapping[str, Any]) -> None:
        """An answer."""
        if self._interrupted:
            self._interrupted = False
            self._printer.note("the agent answers again")
        self._note_hosts(told)
        self.next = told["next"]
        for row in _rows(told):
            if not self.over:
                self.show(row)
        for host, each in sorted(told["hosts"].items()):
            if each.get("lost"):
                self._printer.note(f"{host}: {each['lost']} more that there was no room for")
            if each.get("begun"):
                self._printer.note(f"{host}: it has begun anew; what ended meanwhile is not known")
        self._printer.flush()

    def show(self, row: Mapping[str, Any]) -> None:
        """One request."""
        if self._printer.json:
            self._printer.line(row)
        else:
            self._printer.text(line(row))

    def _note_hosts(self, told: Mapping[str, Any]) -> None:
        hosts, missing = set(told["hosts"]), {host: no["reason"] for host, no in told["missing"].items()}
        if not self.next:
            self._printer.note(
                f"{self.does} {_words(self._asked)} on {', '.join(sorted(hosts)) or 'no host'}; Ctrl-C ends it"
            )
        else:
            for host in sorted(hosts - self._hosts):
                self._printer.note(f"{host}: it answers, from now on")
            for host in sorted(self._hosts - hosts - set(missing)):
                self._printer.note(f"{host}: gone from the mesh")
        for host in sorted(set(missing) - set(self._missing)):
            self._printer.note(f"{host} is missing: {missing[host]}")
        self._hosts, self._missing = hosts, missing


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


def _told(told: Any) -> dict[str, Any]:
    if not isinstance(told, dict) or not isinstance(told.get("hosts"), dict):
        raise Failure("what answers there is no agent of Shoal: its answer is none of an agent's")
    return {"missing": {}, "next": "", **told}


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


def _note_missing(printer: Printer, missing: Mapping[str, Any]) -> None:
    for host, no in sorted(missing.items()):
        printer.note(f"{host} is missing: {no.get('reason', '')}")


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
