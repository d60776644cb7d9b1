"""`shoal policy`: check, put, get and remove single policies, and learn what kinds there are."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands.apply import ForceOption
from agent.cli.completion import kinds as kinds_of_policy
from agent.cli.completion import patterns
from agent.cli.documents import Problem, Source, check, checked, key, read, report
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options, who
from agent.cli.printing import Row, field

if TYPE_CHECKING:
    from registry.census import Policy
    from registry.keys import Keys
    from registry.store import Store

MAX_REASON = 1024
MOST_NAMED = 5
app = typer.Typer(no_args_is_help=True, help="Check, put, get and remove policies.")

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE…", help="YAML (one document or several) or JSON; - is stdin.")
]
KindOption = Annotated[
    str, typer.Option("--kind", help="For documents that do not name their kind.", autocompletion=kinds_of_policy)
]
ServiceOption = Annotated[
    str, typer.Option("--service", help="For documents that do not name their service.", autocompletion=patterns)
]
KindArgument = Annotated[
    str, typer.Argument(help="route, balance, … (see `shoal policy kinds`)", autocompletion=kinds_of_policy)
]
PatternArgument = Annotated[
    str, typer.Argument(metavar="SERVICE", help="`pets.production`, `'*.production'` or `'*'`", autocompletion=patterns)
]
ChainOption = Annotated[bool, typer.Option("--chain", help="Ask etcd, and warn of what would go wrong along chains.")]
AuditOption = Annotated[bool, typer.Option("--audit", help="Those that are only watched, beside what is in force.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when every live agent runs it.")]


@app.command("check")
def check_files(
    context: typer.Context, files: Files, kind: KindOption = "", service: ServiceOption = "", chain: ChainOption = False
) -> None:
    """Say what is wrong with documents, without putting them. Exit code 1 when something is.

    Etcd is asked for nothing but bundles: Rego is compiled with those that it names, of these files, else of those
    beside them, else of etcd.
    With --chain also what would be wrong with the chains of calls that agents have seen, were these documents put:
    among them calls that `isolation` would cut off or `authz` deny, and hops that `strict` of tls would fail.

    Example:  shoal policy check policies/*.yaml
    """
    printer = context.obj.printer
    sources, problems = read(files, kind, service)
    problems += check(sources)
    if not problems:
        problems += _with_bundles(context.obj, files, sources)
    if chain and not problems:
        problems += _along_chains(context.obj, sources)
    if printer.json:
        printer.value([{"place": p.place, "path": p.path, "reason": p.reason} for p in problems])
    else:
        report(printer, problems)
    if problems:
        raise typer.Exit(Exit.NO)
    printer.note(f"{len(sources)} good: {', '.join(key(source) for source in sources)}")


@app.command()
def put(
    context: typer.Context,
    files: Files,
    kind: KindOption = "",
    service: ServiceOption = "",
    audit: AuditOption = False,
    reason: Annotated[str, typer.Option("--reason", help="Why: it is written into the documents, and recorded.")] = "",
    wait: WaitOption = False,
    force: ForceOption = False,
) -> None:
    """Check documents and put them into etcd, all of them in one revision or none.

    Who puts them is written into them as `by`: the person who is logged in, else the user and this machine.
    With --audit, or `mode: audit` in them, they are only watched: put under audits/, they act on nothing, and take
    nothing out of force. What they would do is shown beside what is done.

    Example:  shoal policy put pets.yaml
    """
    from agent.cli.commands.apply import apply_sources
    from agent.cli.people.authorship import Author

    if len(reason) > MAX_REASON:
        raise Failure(f"--reason has {len(reason)} characters; at most {MAX_REASON}", Exit.USAGE)
    sources = checked(context.obj.printer, files, kind, service, watched=audit)
    author = Author(who(context.obj.mesh), reason)
    apply_sources(context.obj, sources, prune=False, dry_run=False, wait=wait, force=force, author=author)


@app.command()
def get(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="Without it: a list of all.", autocompletion=kinds_of_policy)] = "",
    service: Annotated[
        str, typer.Argument(help="`pets.production`, `'*.production'` or `'*'`", autocompletion=patterns)
    ] = "",
    audit: AuditOption = False,
) -> None:
    """Print a policy as it stands in etcd, or list those that there are.

    Example:  shoal policy get route pets.production
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    if kind and service:
        pattern = parsed_pattern(service)
        text = ask(options, lambda store: _text(store, options.mesh, kind, pattern, audit=audit))
        options.printer.document(text)
        return
    _list(options, kind, audit=audit)


@app.command()
def rm(
    context: typer.Context,
    kind: KindArgument,
    service: PatternArgument,
    audit: AuditOption = False,
    wait: WaitOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove also a bundle of Rego that authz documents name.")
    ] = False,
) -> None:
    """Remove a policy. Those that are less specific come into force again, or the defaults.

    A bundle of Rego that authz documents name is not removed: they are named, and would be refused from then on.

    Example:  shoal policy rm route pets.production
    """
    from agent.cli.commands.wait import wait_until
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    if kind == "rego" and not audit and (named := _named_by(options, service)):
        said = f"rego/{service} is named by {named}: without it agents refuse these, and deny where they never saw it"
        if not force:
            raise Failure(f"nothing was removed: {said}; put them without it first, or say --force")
        options.printer.note(f"warning: {said}")
    name, revision = ask(options, lambda store: _remove(store, options.mesh, kind, service, audit=audit))
    options.printer.note(f"removed {name} at revision {revision}")
    if wait:
        wait_until(options, revision)


@app.command()
def kinds(context: typer.Context) -> None:
    """List the kinds of policy, in the order in which a request meets them."""
    from policies.catalogue import KINDS

    rows = [
        {"kind": kind.name, "summary": kind.summary, "asked_by": kind.side.value, "fails_closed": kind.fails_closed}
        for kind in KINDS
    ]
    context.obj.printer.rows(rows, {"kind": field("kind"), "what it decides": field("summary")}, empty="")


@app.command()
def schema(context: typer.Context, kind: KindArgument) -> None:
    """Print the JSON Schema of a kind: editors complete and check documents with it."""
    from policies.catalogue import KINDS
    from policies.catalogue import schema as schema_of

    names = [known.name for known in KINDS]
    if kind not in names:
        raise Failure(f"no policy kind {kind!r}; there are: {', '.join(names)}", Exit.USAGE)
    context.obj.printer.value(schema_of(kind))


def _along_chains(options: Options, sources: Sequence[Source]) -> list[Problem]:
    from agent.cli.before_put import OF_GUARDS, along_chains, around, warnings
    from agent.cli.etcd_client import ask

    census = ask(options, lambda store: around(store, options.mesh, sources))
    chains = [
        Problem("chain", " → ".join(found.path), f"{found.kind}: {found.reason}")
        for found in along_chains(census, sources)
    ]
    guards = warnings(census, sources, (), checks=OF_GUARDS)
    return [*chains, *(Problem("mesh", found.where, f"{found.what}; {found.next}") for found in guards)]


def _with_bundles(options: Options, files: Sequence[Path], sources: Sequence[Source]) -> list[Problem]:
    """What agents will say of documents with the bundles that they name. Raises Failure."""
    from agent.cli import bundles
    from agent.cli.etcd_client import ask
    from registry.census import take

    if not bundles.concerned(sources):
        return []
    beside, twice = bundles.around(files, sources)
    if twice:
        return twice
    held: bundles.Texts = {}
    if lacking := bundles.missing(sources, beside):
        try:
            census = ask(options, lambda store: take(store, options.mesh, "policies"))
        except Failure as failure:
            source, name = lacking[0]
            where = f"{source.place} names the bundle {name}, which stands in no file here or beside it"
            raise Failure(f"{where}, and {failure.message}", failure.code) from None
        held = {at: each.text for at, each in census.policies.items()}
    given = {(each.kind, each.service): each.text for each in sources if not each.watched}
    held = {**held, **bundles.whole(beside, {**held, **given})}
    return bundles.problems(held, sources, beside=beside)


def _named_by(options: Options, service: str) -> str:
    from agent.cli.etcd_client import ask
    from policies.language.names import parse_pattern

    try:
        name = parse_pattern(service)
    except ValueError:
        return ""  # a key that names nothing
    return ask(options, lambda store: named_by(store, options.mesh, name))


async def named_by(store: Store, mesh: str, name: str) -> str:
    """Which documents name a bundle, for people; empty: none. Raises StoreError."""
    from agent.cli.bundles import users
    from registry.census import take

    census = await take(store, mesh, "policies", "audits")
    rooms = (census.policies, census.audits)
    found = users(name, *({at: each.text for at, each in room.items()} for room in rooms))
    return ", ".join(found[:MOST_NAMED]) + (f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else "")


def parsed_pattern(text: str) -> str:
    """The canonical form of a pattern as typed. Raises Failure."""
    from policies.language.names import parse_pattern

    try:
        return parse_pattern(text)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


async def _text(store: Store, mesh: str, kind: str, pattern: str, *, audit: bool) -> str:
    from registry.keys import Keys

    keys = Keys(mesh)
    found = await store.get(_key(keys, kind, pattern, audit=audit))
    if found is None and not audit and await store.get(keys.audit(kind, pattern)) is not None:
        raise Failure(f"{kind}/{pattern} is only watched, and stands under audits/: say --audit")
    if found is None:
        what, option = (f"audits/{kind}/{pattern}", " --audit") if audit else (f"policy {kind}/{pattern}", "")
        raise Failure(f"no {what} in the mesh {mesh!r}; `shoal policy get{option}` lists those there are")
    return found.value.decode("utf-8", "replace")


async def _remove(store: Store, mesh: str, kind: str, pattern: str, *, audit: bool) -> tuple[str, int]:
    """What was removed, and at which revision."""
    from registry.keys import Keys

    keys = Keys(mesh)
    if audit:
        name = parsed_pattern(pattern)
        await _text(store, mesh, kind, name, audit=True)
        return f"audits/{kind}/{name}", await store.delete(keys.audit(kind, name))
    spelled = keys.spelled(kind, pattern)
    if await store.get(spelled) is not None:  # also where the key names nothing
        return f"{kind}/{pattern}", await store.delete(spelled)
    name = parsed_pattern(pattern)
    await _text(store, mesh, kind, name, audit=False)
    return f"{kind}/{name}", await store.delete(_key(keys, kind, name, audit=False))


def _key(keys: Keys, kind: str, pattern: str, *, audit: bool) -> str:
    try:
        return keys.audit(kind, pattern) if audit else keys.policy(kind, pattern)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _list(options: Options, kind: str, *, audit: bool) -> None:
    """Those under `audits/` too, or only these."""
    from agent.cli.etcd_client import ask
    from registry.census import take

    rooms = ("audits", "audits_rejected") if audit else ("audits", "audits_rejected", "policies", "rejected")
    census = ask(options, lambda store: take(store, options.mesh, *rooms))
    rows = _rows("policies", census.policies, census.rejected)
    rows += [
        {"room": "policies", "kind": at[0], "service": at[1], "revision": found.revision, "state": "refused"}
        for at, found in sorted(census.misnamed.items())
    ]
    rows += _rows("audits", census.audits, census.audits_rejected)
    columns = {name: field(name) for name in ("kind", "service", "revision", "state", "bytes", "by")}
    columns["kind"] = lambda row: f"{'audits/' * (row['room'] == 'audits')}{row['kind']}"
    shown = [{"bytes": None, "by": "", "reason": "", **row} for row in rows if not kind or row["kind"] == kind]
    options.printer.rows(shown, columns, empty=f"no policy in the mesh {options.mesh!r}")


def _rows(room: str, policies: Mapping[tuple[str, str], Policy], rejected: Container[tuple[str, str]]) -> list[Row]:
    return [
        {
            "room": room,
            "kind": policy.kind,
            "service": policy.service,
            "revision": policy.revision,
            "state": "refused" if place in rejected else _mode(room, policy),
            "bytes": len(policy.text),
            **_author(policy),
        }
        for place, policy in sorted(policies.items())
    ]


def _author(policy: Policy) -> dict[str, str]:
    """Who it says that has put it, and why."""
    from policies.language.plain import Flaw, load

    try:
        content = load(policy.text)
    except Flaw:
        content = None
    said = content if isinstance(content, dict) else {}
    return {name: str(said.get(name) or "")[:256] for name in ("by", "reason")}


def _mode(room: str, policy: Policy) -> str:
    from policies.language.document import says_audit

    return "watched" if room == "audits" or says_audit(policy.text) else "put"
