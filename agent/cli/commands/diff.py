"""`shoal diff`: what a candidate answers otherwise than those that serve, as all agents of the mesh counted it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.printing import Printer, Row, field

if TYPE_CHECKING:
    from policies.kinds.shadow.comparison import Tally
    from policies.kinds.shadow.document import Thresholds
    from registry.keys import Keys
    from registry.records import Compared
    from registry.store import KeyValue, Store

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
    from policies.language.names import parse_service

    options: Options = context.obj
    try:
        name = parse_service(service)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    found = ask(options, lambda store: gathered(store, options.mesh, name))
    if options.printer.json:
        options.printer.value(found)
    else:
        show(options.printer, found)
    if found["outcome"] != "equal":
        raise typer.Exit(Exit.NO if found["outcome"] == "regression" else Exit.UNKNOWN)


async def gathered(store: Store, mesh: str, service: str) -> dict[str, Any]:
    """What all agents counted under the document in force, added up and judged. Raises StoreError and Failure."""
    from policies.kinds.shadow.comparison import report
    from registry.keys import Keys
    from registry.records import Compared, Malformed, decode

    keys = Keys(mesh)
    revision = await _revision(store, keys, service)
    counted: dict[str, Compared] = {}
    left_out: dict[str, str] = {}
    for host, item in (await _told(store, keys, service)).items():
        try:
            record = decode(Compared, item.value)
        except Malformed as error:
            left_out[host] = str(error)
            continue
        if record.revision == revision:
            counted[host] = record
        else:
            left_out[host] = f"counted under revision {record.revision}"
    tally, thresholds, unreadable = added(counted)
    left_out |= unreadable
    return {
        "service": service,
        "revision": revision,
        "agents": sorted(counted.keys() - unreadable.keys()),
        "left_out": left_out,
        **report(tally, thresholds),
    }


async def _told(store: Store, keys: Keys, service: str) -> dict[str, KeyValue]:
    """What each host tells, by host: under its own key, or else where all hosts' stood before."""
    from registry.keys import Key, Room
    from registry.store import prefix_end

    common, own = keys.tallies(service), keys.room(Room.REPORTS)
    before = await store.range(common, prefix_end(common))
    found = {item.key[len(common) :]: item for item in before.items}
    for item in (await store.range(own, prefix_end(own), revision=before.revision)).items:
        key = keys.parse(item.key)
        if isinstance(key, Key) and key.first == service:
            found[key.second] = item
    return found


async def _revision(store: Store, keys: Any, service: str) -> int:
    """Of the shadow document that agents have in force for a service; of a refused one, the last good before it."""
    from policies.language.names import candidates
    from registry.records import Malformed, Rejection, decode

    for pattern in candidates(service):
        put = await store.get(keys.policy("shadow", pattern))
        if put is None:
            continue
        rejected = await store.get(keys.rejection("shadow", pattern))
        if rejected is not None:
            try:
                refusal = decode(Rejection, rejected.value)
            except Malformed:
                return int(put.mod_revision)
            if refusal.revision == put.mod_revision:
                return max(0, refusal.last_good)
        return int(put.mod_revision)
    raise Failure(f"no shadow policy is for {service}; see docs/policies/shadow.md for one that compares answers")


def added(counted: dict[str, Compared]) -> tuple[Tally, Thresholds, dict[str, str]]:
    """The tallies of all hosts as one, under the thresholds of their document; and which could not be read, and why."""
    import msgspec

    from policies.kinds.shadow.comparison import Tally, merge
    from policies.kinds.shadow.document import Thresholds

    total, thresholds, unreadable = Tally(max_samples=0), Thresholds(), dict[str, str]()
    for host, record in sorted(counted.items()):
        try:
            tally = msgspec.convert(record.tally, Tally, strict=False)
            thresholds = msgspec.convert(record.thresholds, Thresholds, strict=False)
        except msgspec.ValidationError as error:
            unreadable[host] = str(error)
        else:
            total = merge(total, tally)
    return total, thresholds, unreadable


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
