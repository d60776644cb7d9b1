"""`shoal audit`: who did what, asked of all agents by way of one; whether their logs are as they were written.

Law: an answer that is not whole says what is missing, and exits with 3. Nobody takes a part for the whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agent.cli.agent_client import Admin
from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Row

app = typer.Typer(no_args_is_help=True, help="Who did what, by the audit logs of all hosts.")

TIMEOUT_S: Final = 60.0
MOST_HALVES: Final = 40
_FRAME: Final = ("at", "host", "n", "event", "hosts")

Since = Annotated[str, typer.Option(metavar="TIME", help="How long ago (30d, 12h, 15m), or a time (2026-01-31T12:00).")]
Until = Annotated[str, typer.Option(metavar="TIME", help="Likewise; without it until now.")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", help="authz.denied; `authz.` is all that begin so. May be repeated."),
]
ServiceOption = Annotated[str, typer.Option("--service", help="To which service.", autocompletion=services)]
Caller = Annotated[str, typer.Option(help="By which service, or whom with which SPIFFE id.")]
Person = Annotated[str, typer.Option(help="By which person: who operates, or put a policy.")]
Client = Annotated[str, typer.Option(help="From which address.")]
Claims = Annotated[
    list[str] | None, typer.Option("--claim", metavar="NAME=VALUE", help="Whose token has it. May be repeated.")
]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="By the log of this host only. May be repeated.")]


@app.command()
def query(
    context: typer.Context,
    since: Since = "24h",
    until: Until = "",
    event: Events = None,
    service: ServiceOption = "",
    caller: Caller = "",
    person: Person = "",
    client: Client = "",
    claim: Claims = None,
    host: Hosts = None,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    by: Annotated[
        str, typer.Option(metavar="FIELD", help="Count by source, event, rule, path, client, sub …: the most first.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Records, the newest; or values.")] = 100,
) -> None:
    """Show audit records of all hosts. Exit code 3 when some of them may be missing, which are named.

    Example:  shoal audit query --since 30d --event authz.denied --service payments.production --count --by source
    """
    options: Options = context.obj
    asked = _asked(since, until, event, service, caller, person, client, claim, host)
    told = _admin(options).audit("query", {**asked, "by": by or ("host" if count else ""), "most": limit})
    _check_field(by, told)
    printer = options.printer
    if printer.json:
        printer.value(told)
    elif by:
        columns = {by: lambda row: str(row["value"]), "records": lambda row: str(row["count"])}
        printer.rows(told["counts"], columns, "no record")
    elif count:
        printer.text(str(told["total"]))
    else:
        columns = {"at": _at, "host": _whose, "event": lambda row: str(row["event"]), "what": _what}
        printer.rows(told["records"], columns, "no record")
        if told["total"] > len(told["records"]):
            printer.note(f"{told['total']} records; shown are the last {len(told['records'])} (--limit)")
    _end(options, told)


@app.command()
def export(
    context: typer.Context,
    since: Since = "24h",
    until: Until = "",
    event: Events = None,
    service: ServiceOption = "",
    host: Hosts = None,
) -> None:
    """Print all records of a time, of all hosts, as lines of JSON, the oldest first. Exit code 3 as with query.

    Example:  shoal audit export --since 90d > audit.jsonl
    """
    options: Options = context.obj
    asked = _asked(since, until, event, service, "", "", "", None, host)
    missing: dict[str, Any] = {"missing": {}, "spans": []}
    for told in _parts(_admin(options), asked, MOST_HALVES):
        for record in told["records"]:
            options.printer.document(json.dumps(record))
        missing["missing"].update(told["missing"])
        missing["spans"] += [span for span in told["spans"] if span not in missing["spans"]]
    _end(options, missing)


@app.command()
def verify(
    context: typer.Context,
    host: Hosts = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A copy of a log, without asking any agent.")
    ] = None,
) -> None:
    """Look whether audit logs are as they were written: nothing changed, removed, reordered, or cut off.

    Each host looks through its own log, by the heads that the other hosts keep of it. Exit code 1 where something is
    wrong, 3 where a log could not be looked through.

    Example:  shoal audit verify
    """
    options: Options = context.obj
    told = _offline(directory) if directory else _admin(options).audit("verify", {"hosts": host or []})
    rows = [{"host": name, **log} for name, log in told["logs"].items()]
    if options.printer.json:
        options.printer.value(told)
    else:
        options.printer.rows(
            rows,
            {
                "host": lambda row: str(row["host"]),
                "records": lambda row: f"{row['first']}-{row['last']}",
                "until": lambda row: _time(row["last_at"]),
                "countersigned": lambda row: _up_to(row["countersigned"]),
                "signed": lambda row: _up_to(row["signed"]),
                "erased": lambda row: str(row["erased"]),
                "lost": lambda row: str(row["lost"]),
                "found": lambda row: f"{len(row['findings'])} wrong" if row["findings"] else "nothing wrong",
            },
            "no log",
        )
    for row in rows:
        for found in row["findings"]:
            options.printer.note(
                f"{row['host']}: {found['what']}: record {found['n']} ({found['segment']}): {found['reason']}"
            )
        if row["note"]:
            options.printer.note(f"{row['host']}: {row['note']}")
    for name, reason in told["missing"].items():
        options.printer.note(f"{name}: its log was not looked through: {reason}")
    if any(row["findings"] for row in rows):
        raise typer.Exit(Exit.NO)
    if told["missing"]:
        raise typer.Exit(Exit.UNREACHABLE)


@app.command()
def erase(
    context: typer.Context,
    person: Annotated[str, typer.Option(help="Somebody who operates, or put a policy.")] = "",
    client: Annotated[str, typer.Option(help="An address.")] = "",
    claim: Annotated[str, typer.Option(metavar="NAME=VALUE", help="Whose token had it: sub=haxor69.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, say how many records it is.")] = False,
) -> None:
    """Take a person's values out of all audit logs and their copies. The records stay, and so does their chain.

    Exit code 3 when some host could not be asked: it still has them.

    Example:  shoal audit erase --claim sub=haxor69 --yes
    """
    options: Options = context.obj
    name, equals, value = claim.partition("=")
    given = [("person", person), ("client", client), (f"claim.{name}", value)]
    whom = [(field, text) for field, text in given if text]
    if len(whom) != 1 or (claim and not equals):
        raise Failure("exactly one of --person NAME, --client ADDRESS and --claim NAME=VALUE", Exit.USAGE)
    field, text = whom[0]
    if not yes:
        asked: dict[str, Any] = {"since": 0.0, "until": time.time() + 60, "by": "host", "most": 1000}
        asked |= {"claims": {name: value}} if claim else {field: text}
        told = _admin(options).audit("query", asked)
        options.printer.note(f"{told['total']} records of {field} {text}; --yes erases him from them for good")
        _end(options, told)
        return
    told = _admin(options).audit("erase", {"field": field, "value": text})
    rows = [{"host": host, **done} for host, done in told["erased"].items()]
    options.printer.rows(
        rows,
        {
            "host": lambda row: str(row["host"]),
            "records": lambda row: str(row["records"]),
            "copies": lambda row: str(row["copies"]),
            "not done": lambda row: str(row["reason"] or "-"),
        },
        "no host",
    )
    for host, reason in told["missing"].items():
        options.printer.note(f"{host} was not asked, and still has what it has: {reason}")
    if told["missing"] or any(row["reason"] for row in rows):
        raise typer.Exit(Exit.UNREACHABLE)


# Asking.


def _admin(options: Options) -> Admin:
    return Admin(options.admin.place, options.mesh, TIMEOUT_S)


def _asked(
    since: str,
    until: str,
    events: Sequence[str] | None,
    service: str,
    caller: str,
    person: str,
    client: str,
    claims: Sequence[str] | None,
    hosts: Sequence[str] | None,
) -> dict[str, Any]:
    from agent.audit.events import wrong_event

    now = time.time()
    pairs = [claim.partition("=") for claim in claims or ()]
    if not all(equals for _, equals, _ in pairs):
        raise Failure("--claim is NAME=VALUE, such as sub=haxor69", Exit.USAGE)
    first, last = _moment("--since", since, now), _moment("--until", until, now) if until else now + 1
    wrong = wrong_event(events or ())
    if wrong:
        raise Failure(f"--event: {wrong}", Exit.USAGE)
    if first >= last:
        raise Failure("--since is before --until", Exit.USAGE)
    return {
        "since": first,
        "until": last,
        "events": list(events or ()),
        "service": service,
        "caller": caller,
        "person": person,
        "client": client,
        "claims": {name: value for name, _, value in pairs},
        "of": list(hosts or ()),
    }


def _check_field(by: str, told: Mapping[str, Any]) -> None:
    """Raises Failure for a field that no record has, and that is no usual one: claims have any name."""
    from agent.audit.events import FIELDS
    from policies.language.document import meant

    if by and by not in FIELDS and told["counts"] and all(row["value"] == "-" for row in told["counts"]):
        raise Failure(f"--by: none of {told['total']} records has a field {by[:60]!r}{meant(by, FIELDS)}", Exit.USAGE)


def _moment(option: str, text: str, now: float) -> float:
    """Seconds of the epoch. Raises Failure."""
    from policies.language.duration import age_s

    try:
        return now - age_s(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Failure(f"{option} {text[:40]!r}: 30d, 12h, 15m, or 2026-01-31T12:00 (UTC)", Exit.USAGE) from None


def _parts(admin: Admin, asked: dict[str, Any], halves: int) -> Iterator[dict[str, Any]]:
    """All records of a time, in answers that are whole: a time with too many records is asked for in halves."""
    told: dict[str, Any] = admin.audit("query", {**asked, "by": "", "most": 10_000})
    if told["total"] <= len(told["records"]) or halves <= 0 or _only_twice(told):
        yield told
        return
    middle = (asked["since"] + asked["until"]) / 2
    yield from _parts(admin, {**asked, "until": middle}, halves - 1)
    yield from _parts(admin, {**asked, "since": middle}, halves - 1)


def _only_twice(told: Mapping[str, Any]) -> bool:
    """Whether what is fewer than were found is what several hosts have recorded of the same thing."""
    return bool(told["total"] <= sum(len(record.get("hosts", [0])) for record in told["records"]))


def _offline(directory: Path) -> dict[str, Any]:
    """A folder with segments, as agents keep them, or as they copy them."""
    import gzip

    from agent.audit import heads
    from agent.audit.verify import examine

    names = sorted(path for path in directory.iterdir() if path.name[:12].isdigit()) if directory.is_dir() else []
    files = [path for path in names if path.name[12:] in (".jsonl", ".open", ".jsonl.gz")]
    if not files:
        raise Failure(f"no segment of an audit log is in {directory}: 000000000001.jsonl, .open or .jsonl.gz")

    def lines(path: Path) -> Iterator[bytes]:
        try:
            with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
                yield from file
        except (OSError, EOFError) as error:
            yield f"{error}\n".encode()

    kept = directory / "heads.jsonl"
    found = heads.parsed(lines(kept)) if kept.exists() else []
    copy = any(path.suffix == ".gz" for path in files)
    report = examine([(path.name, lines(path)) for path in files], found, now_s=time.time(), copy=copy)
    import msgspec

    note = "signatures were not looked at, nor heads that other hosts keep: ask an agent for that"
    return {"logs": {report.host or str(directory): {**msgspec.to_builtins(report), "note": note}}, "missing": {}}


# Showing.


def _end(options: Options, told: Mapping[str, Any]) -> None:
    """Say what is missing; with exit code 3 where anything is."""
    for host, reason in told["missing"].items():
        options.printer.note(f"missing: all of {host}: {reason}")
    for span in told["spans"]:
        first, last = _time(span["first"]), _time(span["last"])
        when = f"at {first}" if first == last else f"from {first} to {last}"
        options.printer.note(f"missing: {span['host']} {when}: {span['reason']}")
    if told["missing"] or told["spans"]:
        raise typer.Exit(Exit.UNREACHABLE)


def _at(row: Row) -> str:
    return _time(row["at"])


def _time(at_s: Any) -> str:
    try:
        return datetime.fromtimestamp(float(at_s), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "-"


def _whose(row: Row) -> str:
    others = len(row.get("hosts", ())) - 1
    return f"{row['host']} +{others}" if others > 0 else str(row["host"])


def _up_to(n: int) -> str:
    return f"up to {n}" if n else "-"


def _what(row: Row) -> str:
    """Its other fields, on one line."""
    said = []
    for name, value in row.items():
        if name not in _FRAME and value not in ("", None, [], False):
            said.append(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    return " ".join(said)
