"""`shoal tap`: live requests to a service on all its hosts, each with how it was decided; with headers and bodies where
that is allowed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from agent.cli.agent_client import API
from agent.cli.commands.logs import (
    Caller,
    Failed,
    Flag,
    Following,
    Method,
    Service,
    Side,
    Slower,
    Start,
    Statuses,
    asked_of,
    clock,
    row_end,
)
from agent.cli.failure import Exit, Failure
from agent.cli.following import read_on
from agent.cli.options import Options
from agent.cli.printing import Printer

TAPS: Final = f"{API}/taps"
MAX_SAID: Final = 400
"""Of what one line of a decision says, in characters."""
NOT_NOTED: Final = "how it was decided was not noted: too many requests at a time"


def tap(
    context: typer.Context,
    service: Service = "",
    headers: Annotated[
        bool, typer.Option("--headers", help="Those of requests and answers, if that is allowed.")
    ] = False,
    bodies: Annotated[bool, typer.Option("--bodies", help="The beginnings of bodies, if that is allowed.")] = False,
    status: Statuses = None,
    slower: Slower = "",
    path: Start = "",
    caller: Caller = "",
    method: Method = "",
    side: Side = "",
    flag: Flag = "",
    failed: Failed = False,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="End after so long: 60s.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many; 0: do not.")] = 0,
) -> None:
    """Live requests to a service, on all its hosts at once: each with how it was decided, as soon as it is over.

    It takes the right to operate the agent, to tap (local.tap), or a login with the role tap, and is recorded. Headers
    and bodies are shown where a document of kind log allows that (tap), less what it redacts.

    Example:  shoal tap pets.production --path /cats --headers --for 60s
    """
    options: Options = context.obj
    asked = asked_of(service, status, slower, path, caller, method, side, flag, failed=failed)
    asked |= {name: "true" for name, wanted in (("headers", headers), ("bodies", bodies)) if wanted}
    until = time.monotonic() + _seconds(for_) if for_ else math.inf
    read_on(options.admin, TAPS, asked, Tapping(options.printer, asked, count), until)


class Tapping(Following):
    """What somebody who taps was told."""

    does = "tapping"

    def __init__(self, printer: Printer, asked: Mapping[str, str], count: int = 0) -> None:
        super().__init__(printer, asked)
        self._left = count or -1

    def show(self, row: Mapping[str, Any]) -> None:
        """One request: a line, and beneath it what was decided and said."""
        if self._printer.json:
            self._printer.line(row)
        else:
            for line in block(row):
                self._printer.text(line)
        self._left -= 1
        self.over = not self._left


def _seconds(text: str) -> float:
    from policies.language.duration import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise Failure(f"--for: {error}", Exit.USAGE) from None


# A request, for people.


def block(row: Mapping[str, Any]) -> Iterator[str]:
    """Its lines. Whatever an agent says, each is one."""
    place = row.get("service") or row.get("host") or "-"
    arrow = "→" if row.get("direction") == "outbound" else "←"
    yield "  ".join(
        [
            clock(row),
            f"{row.get('agent', '-')} {arrow} {place}",
            f"{row.get('method', '-')} {row.get('target', '-')}",
            str(row.get("request_id", "")),
        ]
    ).rstrip()
    caller, how = row.get("caller"), row.get("called_as") or "not known how"
    yield _line("from", f"{f'{caller} ({how})' if caller else 'nobody who is known'}, at {row.get('client') or '-'}")
    decisions = row.get("decisions")
    if not isinstance(decisions, list):
        yield _line("", NOT_NOTED)
    else:
        yield from (_decision(each) for each in decisions if isinstance(each, dict))
    if row.get("decisions_left_out"):
        yield _line("", f"and {row['decisions_left_out']} more")
    yield from _half(row.get("request"), ">")
    failed = row.get("failed")
    for each in failed if isinstance(failed, list) else ():
        yield _line("failed", str(each))
    yield _line("answer", row_end(row))
    yield from _half(row.get("answer"), "<")


def _decision(said: Mapping[str, Any]) -> str:
    policy = said.get("policy")
    by = f"  ({policy}, revision {said.get('revision')})" if policy else ""
    watched = "only watched: " if said.get("mode") == "audit" else ""
    text = f"{watched}{said.get('decision', '')}; {said.get('reason', '')}".strip("; ")
    return _line(str(said.get("phase", "-")), f"{text[:MAX_SAID]}{by}")


def _half(half: Any, mark: str) -> Iterator[str]:
    """Of a request or an answer, what was asked for of it."""
    if not isinstance(half, dict):
        return
    fields = half.get("headers")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, list) and len(field) == 2:
            yield f"    {mark} {field[0]}: {field[1]}"
    if half.get("headers_left_out"):
        yield f"    {mark} and {half['headers_left_out']} more"
    if half.get("no_headers"):
        yield f"    {mark} headers are not shown: {half['no_headers']}"
    body = half.get("body")
    if isinstance(body, str) and body:
        yield from (f"    {mark}| {line}" for line in body.splitlines())
    if half.get("body_cut") and body:
        yield f"    {mark}| … of {half.get('body_bytes')} bytes"
    if half.get("no_body"):
        yield f"    {mark}| the body of {half.get('body_bytes')} bytes is not shown: {half['no_body']}"


def _line(name: str, text: str) -> str:
    return f"    {name:<9} {text}"
