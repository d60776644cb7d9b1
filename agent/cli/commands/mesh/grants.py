"""`shoal mesh create`, `grant` and `show`: who may do what with a mesh's keys, as etcd's users and roles.

They print what `etcdctl` would be told, and with `--apply` do it, with the rights of whoever asks: etcd's root, or a
user that has its role. No agent has those.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands.mesh.policies import now_text
from agent.cli.etcd_client import ask_users
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options, who
from agent.cli.rights.granting import Standing, carry_out, password_in, roles_of, standing_of, steps_for
from agent.cli.rights.plan import Step, for_roles, for_user
from registry.keys import Keys, Room
from registry.records import MOVED, Layout, encode
from registry.rights import KINDS, Kind, Rights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.etcd.users import Users
    from registry.rights import Role

Apply = Annotated[bool, typer.Option("--apply", help="Do it, and do not only print it.")]


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the mesh; a DNS label.")],
    apply: Apply = False,
) -> None:
    """Make a mesh that no other can see: its roles in etcd, and that its agents write under keys of their own.

    Said again it mends roles that are not as they should be.

    Example:  shoal mesh create staging --apply
    """
    options: Options = context.obj
    keys = _keys(name)
    layout = encode(Layout(state="own_only", at=now_text(), by=who(name), rooms=list(MOVED)))
    first = shlex.join(["etcdctl", "put", keys.layout, layout.decode()])
    if not apply:
        options.printer.text(first)
        _print(options, list(for_roles(Rights(keys).shared(), {})))
        return
    ask_users(options, lambda users: _create(options, users, keys, layout))


async def _create(options: Options, users: Users, keys: Keys, layout: bytes) -> None:
    from registry.store import Compare, Put, prefix_end

    standing = await standing_of(users, keys)
    rights = Rights(keys, kept_by_issuers=standing.kept_by_issuers(Rights(keys)))
    await _do(options, users, list(for_roles(rights.shared(), standing.roles)))
    agents = keys.room(Room.AGENTS)
    new = [Compare(agents, create_revision=0, end=prefix_end(agents)), Compare(keys.layout, create_revision=0)]
    if (await users.transact(new, [Put(keys.layout, layout)])).succeeded:
        options.printer.note(f"agents of {keys.mesh} write under hosts/")
    elif await users.get(keys.layout) is None:
        options.printer.note(f"agents of {keys.mesh} live already: `shoal mesh migrate` has them write under hosts/")


def grant(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="In etcd. An agent's is its host's name, as in its certificate.")],
    kind: Annotated[str, typer.Option("--as", help=f"One of: {', '.join(KINDS)}.")] = "agent",
    host: Annotated[str, typer.Option("--host", help="Whose agent it is, where that is not the user's name.")] = "",
    password_file: Annotated[
        str,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="Holds its password; made up where there is none. Without it: known by a certificate.",
        ),
    ] = "",
    apply: Apply = False,
) -> None:
    """Give a user of etcd what an agent, an issuer, an operator or a reader of the mesh needs, and no more.

    An agent's user may write its host's keys, and no other host's. Once there is an issuer, only issuers write what
    puts a policy in force.

    Example:  shoal mesh grant web-1 --password-file web-1.password --apply
    """
    options: Options = context.obj
    keys = _keys(options.mesh)
    found = next((known for known in KINDS if known == kind), None)
    if found is None:
        raise Failure(f"--as {kind[:60]}: one of {', '.join(KINDS)}", Exit.USAGE)
    roles = roles_of(Rights(keys, kept_by_issuers=found == "issuer"), found, host or user)
    password = password_in(password_file, make=apply) if password_file else ""
    if not apply:
        shared = {role.name: role for role in Rights(keys).shared()}
        steps = [*for_roles(roles, shared), *for_user(user, password, [role.name for role in roles], {})]
        if password_file:
            options.printer.text(f'PASSWORD="$(cat {shlex.quote(password_file)})"')
        _print(options, steps)
        return
    ask_users(options, lambda users: _grant(options, users, keys, user, found, host or user, password))
    if password_file:
        options.printer.note(f"{password_file} has its password: move it to that host, where [etcd] names it")


async def _grant(options: Options, users: Users, keys: Keys, user: str, kind: Kind, host: str, password: str) -> None:
    await _do(options, users, await steps_for(users, keys, user, kind, host, password))


def show(context: typer.Context) -> None:
    """Say who may do what in the mesh, by etcd's users and roles, and which roles are not as they should be.

    Exit code 1 when one is not. `shoal mesh create NAME --apply` mends those that hosts share, `grant` a host's.
    """
    options: Options = context.obj
    keys = _keys(options.mesh)
    standing = ask_users(options, lambda users: standing_of(users, keys))
    rights = Rights(keys, kept_by_issuers=standing.kept_by_issuers(Rights(keys)))
    rows = [
        {"user": user, "roles": [role.removeprefix(rights.prefix) for role in roles if role.startswith(rights.prefix)]}
        for user, roles in sorted(standing.users.items())
    ]
    rows = [row for row in rows if row["roles"]]
    wrong = [str(step) for step in for_roles(_meant(rights, standing), standing.roles)]
    if options.printer.json:
        options.printer.value({"users": rows, "missing": wrong})
    else:
        columns = {"user": lambda row: str(row["user"]), "roles": lambda row: " ".join(row["roles"])}
        options.printer.rows(rows, columns, empty=f"no user of etcd has a role in the mesh {options.mesh!r}")
        for line in wrong:
            options.printer.note(f"missing: {line}")
    if wrong:
        raise typer.Exit(Exit.NO)


def _meant(rights: Rights, standing: Standing) -> list[Role]:
    """As the roles that stand, and those that all share, are to be."""
    hosts = rights.name("host:")
    named = [name.removeprefix(hosts) for name in standing.roles if name.startswith(hosts)]
    return [*rights.shared(), *(rights.host(host) for host in named)]


async def _do(options: Options, users: Users, steps: Sequence[Step]) -> None:
    await carry_out(users, steps, options.printer.note)
    if not steps:
        options.printer.note("nothing is to be done: it is so already")


# What was asked for.


def _keys(mesh: str) -> Keys:
    try:
        return Keys(mesh)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _print(options: Options, steps: Sequence[Step]) -> None:
    for step in steps:
        options.printer.text(str(step))
