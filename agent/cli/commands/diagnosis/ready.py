"""`shoal ready`: until the agent on this host serves. Whoever waits is told what it waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from agent.cli.options import Options

ASK_EVERY_S: Final = 0.1
QUIET_S: Final = 1.0
"""A start takes that long: what is said earlier says nothing."""


def ready(
    context: typer.Context,
    timeout_s: Annotated[float, typer.Option("--timeout", "-t", min=0, help="Seconds.")] = 60.0,
    pid: Annotated[int, typer.Option(min=0, help="Of the agent: give up at once when that process is gone.")] = 0,
) -> None:
    """Wait until the agent on this host serves, and say meanwhile why it does not.

    Exit code 1 when it does not in time, 3 when none answers, or its process is gone.

    Example:  shoal agent 2>agent.log & shoal ready --pid $!
    """
    options: Options = context.obj
    began, said = time.monotonic(), ""
    while why := _not_ready(options):
        if pid and not _lives(pid):
            raise Failure(f"the agent has ended: there is no process {pid}. Its log says why", Exit.UNREACHABLE)
        waited_s = time.monotonic() - began
        if waited_s >= timeout_s:
            raise Failure(f"not ready after {timeout_s:g} s: {why.message}", why.code)
        if waited_s >= QUIET_S and why.message != said:
            options.printer.note(f"not ready: {why.message}")
            said = why.message
        time.sleep(ASK_EVERY_S)
    if options.printer.json:
        options.printer.value({"ready": True})
    else:
        options.printer.text("ready")


def _not_ready(options: Options) -> Failure | None:
    try:
        told = options.admin.state()
    except Failure as failure:
        if failure.code == Exit.USAGE:
            raise  # no agent will ever be there
        return failure
    why = told.get("not_ready", "")
    return Failure(f"{why}; its log and `shoal status` say more", Exit.NO) if why else None


def _lives(pid: int) -> bool:
    """Whether a process runs; one that ended and that its parent has not asked about does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
