"""`shoal apply`: a directory of policies as one transaction, all or nothing, in force everywhere at one revision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec
import typer

from agent.cli.bundles import check as check_bundles
from agent.cli.commands.mesh.policies import word
from agent.cli.documents import Source, checked, files_under, key
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.people.authorship import Author, signed
from agent.findings.of_mesh.enforcing import Text, Unable, silence, silent, unable

if TYPE_CHECKING:
    from agent.findings.finding import Finding
    from registry.census import Census, Policy
    from registry.keys import Keys
    from registry.store import Store

    Held: TypeAlias = Mapping[tuple[str, str], Policy]
    """By kind and service."""

MANY = 5
"""Policies that agents do not believe to be deleted at once, when they are over half of all (docs/keys.md)."""
MOST_TOLD = 5
"""Reasons for which nothing is put."""
MAX_OPERATIONS = 128
"""etcd's own default limit for one transaction (--max-txn-ops)."""


ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Put also what would fail requests: strict of `tls` without certificates."),
]


class Plan(msgspec.Struct, frozen=True):
    """What has to change so that etcd holds what the files say."""

    created: tuple[Source, ...] = ()
    changed: tuple[Source, ...] = ()
    unchanged: tuple[Source, ...] = ()
    pruned: tuple[tuple[str, str], ...] = ()
    """(kind, service) of what is under `policies/` and in no file, as it is spelled, where the key names nothing; and
    of what is watched there, and will be under `audits/`."""
    unwatched: tuple[tuple[str, str], ...] = ()
    """(kind, service) of what is under `audits/`, could be of a file, and is of none."""
    beside: frozenset[str] = frozenset()
    """Of what is put under `audits/`, by key: that beside which an enforced one stays in force."""

    @property
    def puts(self) -> tuple[Source, ...]:
        return self.created + self.changed

    @property
    def size(self) -> int:
        """Operations of its transaction."""
        return len(self.puts) + len(self.pruned) + len(self.unwatched) + self.confirms

    @property
    def confirms(self) -> bool:
        """Whether it says that it is meant, which agents would not believe otherwise."""
        return len(self.pruned) >= MANY


def plan(
    sources: Sequence[Source],
    held: Held,
    audits: Held = MappingProxyType({}),
    *,
    misnamed: Iterable[tuple[str, str]] = (),
    prune: bool,
) -> Plan:
    """The difference between the files and what etcd holds under `policies/` and `audits/`. Pure.

    Law: what is only watched takes nothing out of force. It is compared with, and put under, `audits/`; one that stands
    under `policies/` in audit mode moves there. Pruned is what a file could have put: under `audits/` that is what says
    `mode: audit` itself, and not what somebody watches on the side (`shoal policy put --audit`).
    """
    from policies.language.document import says_audit

    sorted_out: dict[str, list[Source]] = {"created": [], "changed": [], "unchanged": []}
    for source in sources:
        there = (audits if source.watched else held).get((source.kind, source.service))
        verdict = "created" if there is None else "unchanged" if there.text == source.text else "changed"
        sorted_out[verdict].append(source)
    enforced = {(source.kind, source.service) for source in sources if not source.watched}
    watched = {(source.kind, source.service) for source in sources if source.watched}
    pruned = {place for place in watched - enforced if place in held and says_audit(held[place].text)}
    unwatched: set[tuple[str, str]] = set()
    if prune:
        pruned |= {*held, *misnamed} - enforced
        unwatched = {place for place, policy in audits.items() if place not in watched and says_audit(policy.text)}
    return Plan(
        created=tuple(sorted_out["created"]),
        changed=tuple(sorted_out["changed"]),
        unchanged=tuple(sorted_out["unchanged"]),
        pruned=tuple(sorted(pruned)),
        unwatched=tuple(sorted(unwatched)),
        beside=frozenset(
            key(source)
            for source in sources
            if source.watched and (source.kind, source.service) in (held.keys() | enforced) - pruned
        ),
    )


def apply(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Its .yaml, .yml and .json files, and those below.")],
    prune: Annotated[bool, typer.Option("--prune", help="Remove the policies that are in no file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when every live agent runs it.")] = False,
    force: ForceOption = False,
) -> None:
    """Make etcd hold the policies of a directory, in one transaction: all of them come into force together, or none.

    Every document is checked first. If somebody changes one of them meanwhile nothing is done. One with `mode: audit`
    is only watched: it stands under audits/, and takes nothing out of force.

    Example:  shoal apply policies/ --prune --wait
    """
    sources = checked(context.obj.printer, files_under(directory))
    apply_sources(context.obj, sources, prune=prune, dry_run=dry_run, wait=wait, force=force)


def apply_sources(
    options: Options,
    sources: Sequence[Source],
    *,
    prune: bool,
    dry_run: bool,
    wait: bool,
    force: bool,
    author: Author | None = None,
) -> None:
    """The same for documents that were read and checked. `author`: who is written into them, None: nobody. Raises
    Failure."""
    from agent.cli.commands.wait import wait_until
    from agent.cli.etcd_client import ask

    printer = options.printer
    warn = None if printer.json else printer.note  # in JSON they stand in the answer

    async def put(store: Store) -> tuple[Plan, int, Warned]:
        return await applied(
            store, options.mesh, sources, prune, dry_run, force, author=author, note=printer.note, warn=warn
        )

    done, revision, warned = ask(options, put)
    _tell(options, done, revision, dry_run, warned)
    if wait and revision:
        wait_until(options, revision)


class Meanwhile(Failure):
    """Somebody else has changed what was to be changed."""


class Breaking(Failure):
    """It would fail requests, and nobody said that it is meant."""


async def applied(
    store: Store,
    mesh: str,
    sources: Sequence[Source],
    prune: bool,
    dry_run: bool,
    force: bool,
    *,
    author: Author | None = None,
    note: Callable[[str], None],
    warn: Callable[[str], None] | None,
    seen: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Plan, int, Warned]:
    """What was done, at which revision (0 when there was nothing to do), and what was said before. `note`: told of what
    was left out of documents, `warn`: of each thing that is wrong, before it is put. `seen`: by key, the revision at
    which somebody has seen it (0: it was not there). Raises Failure, and StoreError."""
    from agent.cli.before_put import around
    from registry.keys import Keys

    census = await around(store, mesh, sources)
    if author is not None:
        sources, why_not = signed(census, sources, author)
        if why_not:
            note(why_not)
    todo = plan(sources, census.policies, census.audits, misnamed=census.misnamed, prune=prune)
    if todo.size > MAX_OPERATIONS:
        raise Failure(
            f"{todo.size} changes; etcd takes at most {MAX_OPERATIONS} in one transaction (--max-txn-ops). "
            "Apply parts of the directory, or single files with `shoal policy put`",
            Exit.USAGE,
        )
    check_bundles({at: each.text for at, each in census.policies.items()}, todo.puts, todo.pruned)
    warned = _warned(census, todo)
    if todo.size and warn is not None:
        for warning in warned.lines:
            warn(f"warning: {warning}")
    if dry_run or not todo.size:
        return todo, 0, warned
    if warned.breaking and not force:
        shown = "; ".join(map(str, warned.breaking[:MOST_TOLD]))
        more = f"; and {len(warned.breaking) - MOST_TOLD} more" if len(warned.breaking) > MOST_TOLD else ""
        raise Breaking(f"nothing was put, for it would fail requests (--force puts it all the same): {shown}{more}")
    return todo, await _transacted(store, Keys(mesh), todo, census, seen), warned


class Warned(msgspec.Struct, frozen=True):
    """What is wrong with a change that is put nevertheless."""

    not_enforced: list[Unable]
    silent: list[str]
    """Hosts of which that is not known; `silence` says so in a sentence."""
    silence: str
    findings: list[Finding]

    @property
    def breaking(self) -> list[Finding]:
        """For which it is not put, unless that is meant."""
        from agent.findings.of_mesh.guards import NOT_READY

        return [found for found in self.findings if found.id == NOT_READY]

    @property
    def lines(self) -> list[str]:
        """For people."""
        return [*map(str, self.not_enforced), *filter(None, [self.silence]), *map(str, self.findings)]


def _warned(census: Census, todo: Plan) -> Warned:
    from agent.cli.before_put import warnings

    lacking = unable(census, [Text(each.kind, each.service, each.text, each.watched) for each in todo.puts])
    found = warnings(census, todo.puts, todo.pruned, todo.unwatched)
    return Warned(lacking, silent(census), silence(census) if todo.puts else "", found)


def _tell(options: Options, done: Plan, revision: int, dry_run: bool, warned: Warned) -> None:
    named = {
        "created": [key(source) for source in done.created],
        "changed": [key(source) for source in done.changed],
        "removed": [f"{kind}/{service}" for kind, service in done.pruned]
        + [f"audits/{kind}/{service}" for kind, service in done.unwatched],
        "unchanged": [key(source) for source in done.unchanged],
    }
    if options.printer.json:
        told = {
            "not_enforced": msgspec.to_builtins(warned.not_enforced),
            "silent": warned.silent,
            "warnings": msgspec.to_builtins(warned.findings),
        }
        options.printer.value({"revision": revision, "dry_run": dry_run, **named, **told})
        return
    for verb, keys in named.items():
        for name in keys:
            only = _only_watched(name, done) if verb != "removed" else ""
            options.printer.note(f"{'would be ' if dry_run and verb != 'unchanged' else ''}{verb} {name}{only}")
    if revision:
        options.printer.text(f"{revision}")


def _only_watched(name: str, done: Plan) -> str:
    place = name.removeprefix("audits/")
    if place == name:
        return ""
    return f", which is only watched{f'; {place} stays in force' * (name in done.beside)}"


async def _transacted(store: Store, keys: Keys, todo: Plan, census: Census, seen: Mapping[str, int]) -> int:
    """Everything in one transaction, if nobody has changed any of it meanwhile."""
    from registry.store import Compare, Delete, Put

    puts = [Put(_key(keys, source), source.text) for source in todo.puts]
    deletes = [Delete(keys.spelled(*place)) for place in todo.pruned]
    deletes += [Delete(keys.audit(*place)) for place in todo.unwatched]
    revisions = {keys.spelled(*place): found.revision for place, found in census.misnamed.items()}
    revisions |= {keys.policy(*place): found.revision for place, found in census.policies.items()}
    revisions |= {keys.audit(*place): found.revision for place, found in census.audits.items()}
    touched = [*(put.key for put in puts), *(delete.key for delete in deletes)]
    compare = [Compare(each, mod_revision=seen.get(each, revisions.get(each, 0))) for each in touched]
    if todo.confirms:
        puts.append(Put(keys.confirmed, word(keys.mesh)))
    outcome = await store.transact(compare, [*puts, *deletes])
    if not outcome.succeeded:
        raise Meanwhile("nothing was changed: somebody has put one of these policies meanwhile; look, and apply again")
    return outcome.revision


def _key(keys: Keys, source: Source) -> str:
    return (keys.audit if source.watched else keys.policy)(source.kind, source.service)
