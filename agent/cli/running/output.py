"""What people are shown of programs' output, over all hosts: the last lines, or lines as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import typer

from agent.cli.agent_client import API, Admin
from agent.cli.failure import Exit
from agent.cli.following import Follower, note_missing, read_on, told_by_hosts
from agent.cli.printing import Printer

OUTPUT: Final = f"{API}/output"
HOW: Final = "its output is not kept; start it with `shoal run --logs`"
OWN: Final = "of this host, and of your own programs: others take the right to operate or to tap (local.tap)"


def show_output(
    admin: Admin, printer: Printer, asked: Mapping[str, str], nothing: Callable[[], None] = lambda: None
) -> None:
    """The last lines of each instance; `asked`: by the API's names; `nothing` is called where there is none, and may
    say why. Raises Exit where hosts are missing."""
    told = told_by_hosts(admin.get(OUTPUT, asked.items()))
    rows = list(_rows(told))
    unkept = [f"{host}: {name}" for host, each in sorted(told["hosts"].items()) for name in each.get("unkept", ())]
    if not rows and not unkept:
        nothing()
    if printer.json:
        printer.value({"lines": rows, "unkept": unkept, "missing": told["missing"]})
    else:
        for row in rows:
            printer.text(line(row, asked.get("service", "")))
    note_missing(printer, told["missing"])
    if told.get("own"):
        printer.note(OWN)
    for name in unkept:
        printer.note(f"{name}: {HOW}")
    if not rows and not unkept:
        printer.note("no such line is kept; `shoal run --logs` keeps what programs write")
    if told["missing"]:
        raise typer.Exit(Exit.UNKNOWN)


def follow_output(admin: Admin, printer: Printer, asked: Mapping[str, str]) -> None:
    """Lines as they are written, until Ctrl-C; `last` of those before. Raises Failure."""
    read_on(admin, OUTPUT, asked, OutputFollower(printer, asked))


class OutputFollower(Follower):
    """Somebody who follows programs."""

    def __init__(self, printer: Printer, asked: Mapping[str, str]) -> None:
        self._service = asked.get("service", "")
        of = f"instance {asked['instance']} of " if asked.get("instance") else ""
        what = f"what programs of {of}{self._service or 'every service'} write"
        to = f" to {asked['stream']}" if asked.get("stream") else ""
        super().__init__(printer, what + to + (f" with {asked['contains']!r}" if asked.get("contains") else ""))
        self._unkept: set[str] = set()
        """Whose output was not kept at the last answer: one that has just been started is not told of yet."""
        self._noted: set[str] = set()
        self._own = False

    def tell(self, told: Mapping[str, Any]) -> None:
        """Lines, those that are lost, and whose there are none of."""
        if told.get("own") and not self._own:
            self._printer.note(OWN)
            self._own = True
        for row in _rows(told):
            if self._printer.json:
                self._printer.line(row)
            else:
                self._printer.text(line(row, self._service))
        unkept = set()
        for host, each in sorted(told["hosts"].items()):
            for name, lost in sorted(each.get("lost", {}).items()):
                self._printer.note(f"{host}: {lost} more lines of {name} that there was no room for")
            unkept |= {f"{host}: {name}" for name in each.get("unkept", ())}
        for name in sorted(unkept & self._unkept - self._noted):
            self._printer.note(f"{name}: {HOW}")
        self._noted = (self._noted | unkept & self._unkept) & unkept
        self._unkept = unkept


def line(row: Mapping[str, Any], service: str) -> str:
    """For people: host, instance, stream, text. `service`: that was asked for; of a pattern each has its own."""
    named = row.get("instance", "-")
    who = named if row.get("service") == service else f"{row.get('service', '-')}/{named}"
    cut = f" … ({row['cut']} bytes more)" if row.get("cut") else ""
    return f"{row['host']} {who} {row.get('stream', '-')}  {row.get('text', '')}{cut}"


def _rows(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each with its host; in order by host."""
    for host, each in sorted(told["hosts"].items()):
        for item in each["items"]:
            if isinstance(item, dict):
                yield {"time": item.get("time"), "host": host, **{k: v for k, v in item.items() if v or k != "cut"}}
