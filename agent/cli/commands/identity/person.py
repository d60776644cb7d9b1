"""`shoal person`: who may log in to the mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.options import who
from agent.cli.printing import field

if TYPE_CHECKING:
    from agent.cli.identity.domain import Change, Domain
    from agent.cli.options import Options
    from agent.identity.tokens import Token

app = typer.Typer(no_args_is_help=True, help="Say who may log in to the mesh.")


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="ada")]


@app.callback()
def person() -> None:
    """Say who may log in to the mesh, and have a certificate of it in his own name."""


@app.command()
def add(
    context: typer.Context,
    name: NameArgument,
    role: Annotated[
        Literal["view", "tap", "operate"] | None,
        typer.Option("--role", help="What agents let him do over the network: view (the default), tap or operate."),
    ] = None,
    description: Annotated[str, typer.Option("--description", help="For people.")] = "",
) -> None:
    """Let somebody log in. Prints the command that does it, good once and for an hour. Asked again, it makes another.

    Example:  shoal person add ada --role operate --description 'on call'
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import now_s, settle
    from agent.cli.people.adding import added
    from agent.identity.spiffe import PERSON_USER
    from agent.identity.tokens import write_token

    options: Options = context.obj

    def decide(domain: Domain) -> tuple[Change, Token]:
        return added(domain, name, description, who(options.mesh), now_s(), role)

    made, _, revision = ask(options, lambda store: settle(store, options.mesh, decide))
    token = write_token(made)
    if options.printer.json:
        options.printer.value({"person": name, "user": f"{PERSON_USER}{name}", "token": token, "revision": revision})
        return
    options.printer.note(f"{name} may log in; what etcd lets {name} do there is that of its user {PERSON_USER}{name}:")
    options.printer.note(f"shoal mesh grant {PERSON_USER}{name} --as operator --apply")
    options.printer.note(f"{name} runs this within an hour, once; whoever runs it first is {name}:")
    options.printer.text(f"shoal login {token}")


@app.command("set")
def set_(
    context: typer.Context,
    name: NameArgument,
    role: Annotated[
        Literal["view", "tap", "operate"] | None,
        typer.Option("--role", help="What agents let him do over the network: view, tap or operate."),
    ] = None,
    description: Annotated[str | None, typer.Option("--description", help="For people.")] = None,
) -> None:
    """Change what somebody may, at once, without another login.

    Example:  shoal person set ada --role view
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import settle
    from agent.cli.people.adding import changed

    options: Options = context.obj
    if role is None and description is None:
        raise Failure("nothing to change: --role, --description, or both", Exit.USAGE)

    def decide(domain: Domain) -> tuple[Change, None]:
        return changed(domain, name, description, who(options.mesh), role), None

    _, _, revision = ask(options, lambda store: settle(store, options.mesh, decide))
    if options.printer.json:
        options.printer.value({"person": name, "revision": revision})
        return
    options.printer.text(f"{revision}")


@app.command("list")
def list_(context: typer.Context) -> None:
    """List who may log in, and whose token waits. Where it cannot be read what somebody may, agents go by what they
    knew before: the exit code is 1."""
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import now_s, take
    from agent.cli.identity.report import moment
    from agent.cli.people.adding import unread

    options: Options = context.obj
    domain = ask(options, lambda store: take(store, options.mesh))
    domain.required()
    joins = {join.person: join.until for join in domain.joins.values() if join.until.timestamp() > now_s()}
    rows: list[dict[str, Any]] = [
        {
            "person": name,
            "role": said.role,
            "token_until": moment(joins[name]) if name in joins else None,
            "by": said.by,
            "description": said.description,
        }
        for name, said in sorted(domain.people.items())
    ]
    lost = unread(domain)
    rows += [
        {"person": name, "role": None, "token_until": None, "by": "", "description": f"cannot be read: {why}"}
        for name, why in sorted(lost.items())
    ]
    options.printer.rows(
        rows,
        {
            "person": field("person"),
            "role": field("role"),
            "token until": field("token_until"),
            "by": field("by"),
            "description": field("description"),
        },
        empty="nobody may log in to this mesh yet; `shoal person add NAME` lets somebody",
    )
    if lost:
        raise typer.Exit(Exit.NO)


@app.command()
def rm(context: typer.Context, name: NameArgument) -> None:
    """Let somebody log in no more, nor ask agents. At etcd a login is good until it ends: `shoal ca revoke person`.

    Example:  shoal person rm ada
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import settle
    from agent.cli.people.adding import removed

    options: Options = context.obj

    def decide(domain: Domain) -> tuple[Change, None]:
        change = removed(domain, name)
        if not change.operations:
            raise Failure(f"{name} is nobody who may log in; `shoal person list` has those who may")
        return change, None

    _, _, revision = ask(options, lambda store: settle(store, options.mesh, decide))
    if options.printer.json:
        options.printer.value({"person": name, "revision": revision})
        return
    options.printer.note(
        f"{name} may log in no more, and agents refuse {name} from the next request on; etcd takes a login that stands "
        f"until it ends, in 12 hours at most: `shoal ca revoke person {name}` ends that too"
    )
    options.printer.text(f"{revision}")
