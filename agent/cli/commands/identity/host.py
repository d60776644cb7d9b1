"""`shoal host`: which hosts belong to the mesh, and what each may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.completion import hosts, patterns
from agent.cli.failure import Failure
from agent.cli.options import who
from agent.cli.printing import field

if TYPE_CHECKING:
    from agent.cli.identity.domain import Change, Domain
    from agent.cli.options import Options
    from agent.identity.revocations import Revoked
    from registry.etcd.users import Users
    from registry.store import Store

app = typer.Typer(no_args_is_help=True, help="Say which hosts belong to the mesh, and what each may be.")

ServicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--service",
        "-s",
        metavar="PATTERN",
        help="`pets.production`, `'*.production'` or `'*'`; may be repeated.",
        autocompletion=patterns,
    ),
]


@app.callback()
def host() -> None:
    """Say which hosts belong to the mesh, and which services each of them may be."""


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="HOST", help="As its agent calls it.", autocompletion=hosts)],
    service: ServicesOption = None,
    description: Annotated[str, typer.Option("--description", help="For people.")] = "",
    password_file: Annotated[
        str,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="Of its user in etcd, made up where there is none. HOST.password where you have a password yourself.",
        ),
    ] = "",
) -> None:
    """Let a host's agent have an identity, and its services theirs. Prints the command that joins it, good for an hour.

    Where etcd asks who one is, it makes the host's user and role, too, if your rights suffice. Of a host whose agent
    lives already, and writes to etcd, nothing more is needed. Asked again, it adds.

    Example:  shoal host add web-3 --service '*.staging'
    """
    from agent.cli.etcd_client import ask_users
    from agent.cli.identity.domain import now_s, settle
    from agent.cli.identity.granting import patterns_of
    from agent.cli.identity.inviting import Invited, invited
    from agent.cli.identity.report import expelled
    from agent.cli.rights.granting import let_write
    from agent.identity.tokens import write_token
    from registry.keys import Keys

    options: Options = context.obj
    wanted = patterns_of(service or [])
    revoked: list[Revoked] = []

    def decide(domain: Domain) -> tuple[Change, Invited]:
        revoked.extend(filter(None, [expelled(domain, name)]))
        return invited(domain, name, wanted, description, who(options.mesh), now_s())

    async def written(users: Users) -> tuple[Invited, Domain, int, str]:
        done = await settle(users, options.mesh, decide)
        file = password_file or (f"{name}.password" if options.user else "")
        left = await let_write(users, Keys(options.mesh), name, file, options.printer.note) if done[0].token else ""
        return (*done, left)

    told, domain, revision, left = ask_users(options, written)
    token = write_token(told.token) if told.token is not None else ""
    if options.printer.json:
        value = {"host": name, "granted": told.granted, "revision": revision or domain.revision, "token": token}
        value |= {"left": [left] if left else []}
        options.printer.value(value)
        return
    may = f"may hold {', '.join(told.granted)}" if told.granted else "may hold no service yet (--service)"
    options.printer.note(f"{name} belongs to the mesh, and {may}")
    for entry in revoked[:1]:
        options.printer.note(f"warning: {entry}; it is let in again, with certificates that begin from now on")
    if left:
        options.printer.note(f"warning: {left}")
    if token:
        options.printer.note(f"run this on {name} within an hour, once; whoever runs it first is {name}:")
        options.printer.text(f"shoal join {token}")
    else:
        options.printer.note("its agent lives, and asks for its certificates by itself; see `shoal ca status`")


@app.command("list")
def list_(context: typer.Context) -> None:
    """List the hosts of the mesh: what each may hold, what it holds, who still has to join, and who was revoked."""
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import now_s, take

    options: Options = context.obj
    domain = ask(options, lambda store: take(store, options.mesh))
    domain.required()
    options.printer.rows(
        rows_of(domain, now_s()),
        {
            "host": field("host"),
            "agent": lambda row: "lives" if row["lives"] else "-",
            "may hold": lambda row: " ".join(row["granted"]) or "-",
            "holds": lambda row: str(row["holds"]),
            "until": field("until"),
            "token until": field("token_until"),
            "revoked": field("revoked"),
            "description": field("description"),
        },
        empty="no host belongs to this mesh yet; `shoal host add HOST --service PATTERN` adds one",
    )


@app.command()
def rm(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="HOST", help="web-1", autocompletion=hosts)],
    service: ServicesOption = None,
) -> None:
    """Take a host out of the mesh, or only grants from it. What it holds is good until it ends: `shoal ca revoke host`.

    Example:  shoal host rm web-3
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import settle
    from agent.cli.identity.granting import gone, patterns_of, removed, withdraw

    options: Options = context.obj
    wanted = patterns_of(service or [])

    def decide(domain: Domain) -> tuple[Change, list[str]]:
        domain.required()
        change = removed(domain, name, wanted) if wanted else gone(domain, name)
        if not change.operations and not domain.granted(name):
            raise Failure(f"{name} is no host of this mesh; `shoal host list` has those that are")
        return change, wanted or domain.granted(name)

    async def written(store: Store) -> tuple[list[str], Domain, int]:
        done = await settle(store, options.mesh, decide)
        if not wanted:
            await withdraw(store, options.mesh, name)
        return done

    taken, domain, revision = ask(options, written)
    _tell_removed(options, name, wanted, taken, domain, revision)


def rows_of(domain: Domain, now_s: float) -> list[dict[str, Any]]:
    """A row a host."""
    from agent.cli.identity.report import moment

    revoked = {entry.host: entry for entry in domain.revocations.standing(now_s) if entry.host}
    joins = {join.host: join.until for join in domain.joins.values() if join.host and join.until.timestamp() > now_s}
    rows = []
    believed = domain.believed
    for host in sorted({*believed.hosts, *joins, *revoked}):
        holds = domain.holds.get(host)
        ends = [end for end in (holds.agent, *holds.services.values()) if end is not None] if holds else []
        rows.append(
            {
                "host": host,
                "lives": host in domain.agents,
                "issues": host in domain.issuers,
                "granted": believed.granted(host),
                "holds": len(ends),
                "until": moment(min(ends)) if ends else None,
                "token_until": moment(joins[host]) if host in joins else None,
                "revoked": str(revoked[host]).partition(" is revoked ")[2] if host in revoked else None,
                "description": domain.hosts[host].description if host in domain.hosts else "",
            }
        )
    return rows


def _tell_removed(
    options: Options, name: str, wanted: list[str], taken: list[str], domain: Domain, revision: int
) -> None:
    if options.printer.json:
        options.printer.value({"host": name, "removed": taken, "whole": not wanted, "revision": revision})
        return
    if wanted:
        options.printer.note(f"no grant for {', '.join(taken)} names {name} any more")
    else:
        grants = f", and {', '.join(taken)} granted it no more" if taken else ""
        options.printer.note(f"{name} belongs to the mesh no more{grants}")
    if name in domain.holds:
        options.printer.note(f"what it holds is good until it ends; `shoal ca revoke host {name}` ends it now")
    options.printer.text(f"{revision}")
