"""`shoal ca revoke`: what was stolen is believed no more, as fast as a watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.completion import hosts, services
from agent.cli.options import who

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.cli.identity.domain import Change, Domain
    from agent.cli.options import Options
    from agent.identity.revocations import Revoked
    from registry.store import Store

app = typer.Typer(no_args_is_help=True, help="Have what was stolen believed no more. There is no way back.")

ReasonOption = Annotated[str, typer.Option("--reason", help="For people; who is refused is told it.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Revoke a name that etcd says nothing of, too.")]


@app.callback()
def revoke() -> None:
    """Have a certificate, all that a host had, or all that a service had, believed no more. There is no way back."""


@app.command()
def certificate(
    context: typer.Context,
    serial: Annotated[str, typer.Argument(help="Hex, as `openssl x509 -noout -serial` shows it.")],
    reason: ReasonOption = "",
) -> None:
    """Revoke one certificate; of an intermediate also all that was signed with it. Prints the revision.

    Example:  shoal ca revoke certificate 2f:9a:41 --reason 'a laptop was lost'
    """
    from agent.cli.identity.revoking import knows_serial, of_certificate, parse_serial

    options: Options = context.obj
    wanted = parse_serial(serial)
    known = True

    def entry(domain: Domain, now_s: float, by: str) -> Revoked:
        nonlocal known
        known = knows_serial(domain, wanted)
        return of_certificate(domain, wanted, now_s, reason, by)

    _revoke(options, entry)
    if not known and not options.printer.json:
        options.printer.note(
            f"warning: etcd has no certificate {wanted} now (it keeps the last of each host, and none of people): "
            "compare it with `openssl x509 -noout -serial`"
        )


@app.command()
def service(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SERVICE", help="pets.production", autocompletion=services)],
    reason: ReasonOption = "",
    force: ForceOption = False,
) -> None:
    """Revoke all that a service has had, on every host; those that may hold it get another. Prints the revision.

    Example:  shoal ca revoke service payments.production
    """
    from agent.cli.identity.revoking import check_known, of_service

    def entry(domain: Domain, now_s: float, by: str) -> Revoked:
        made = of_service(name, now_s, reason, by)
        if not force:
            check_known(domain, "service", made.service)
        return made

    _revoke(context.obj, entry)


@app.command()
def host(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="HOST", help="web-1", autocompletion=hosts)],
    reason: ReasonOption = "",
    force: ForceOption = False,
) -> None:
    """Revoke all that a host has had, and put it out: grants, etcd user, lease, instances. Prints the revision.

    Of an issuer also its intermediate, and all that was signed with it: whose that is asks another issuer.

    Example:  shoal ca revoke host web-1 --reason stolen
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    done = ask(options, lambda store: _expelled(store, options, name, reason, force=force))
    if options.printer.json:
        options.printer.value({"host": name, **done})
        return
    for line in done["done"]:
        options.printer.note(line)
    for line in done["left"]:
        options.printer.note(f"warning: {line}")
    options.printer.text(f"{done['revision']}")


@app.command()
def person(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="ada")],
    reason: ReasonOption = "",
    force: ForceOption = False,
) -> None:
    """Revoke all logins of somebody, who may not log in again, and take his user of etcd away. Prints the revision.

    Example:  shoal ca revoke person ada --reason 'a laptop was lost'
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    revision, left = ask(options, lambda store: _logged_out(store, options, name, reason, force=force))
    if options.printer.json:
        options.printer.value({"person": name, "left": left, "revision": revision})
        return
    options.printer.note(f"{name} is revoked: every login is refused from revision {revision} on")
    if left:
        options.printer.note(f"warning: {left}")
    options.printer.text(f"{revision}")


async def _logged_out(store: Store, options: Options, name: str, reason: str, *, force: bool) -> tuple[int, str]:
    """The revision, and what somebody has to see to; empty: nothing."""
    from agent.cli.identity.domain import now_s, settle
    from agent.cli.people.adding import revoked
    from agent.identity.spiffe import PERSON_USER
    from registry.etcd.store import EtcdStore
    from registry.etcd.users import remove_user
    from registry.store import Refused

    def decide(domain: Domain) -> tuple[Change, None]:
        return revoked(domain, name, now_s(), reason, who(options.mesh), force=force), None

    _, domain, revision = await settle(store, options.mesh, decide)
    assert isinstance(store, EtcdStore)
    try:
        await remove_user(store, f"{PERSON_USER}{name}")
    except Refused as refused:
        return revision or domain.revision, f"{PERSON_USER}{name} may be a user of etcd still: {refused}"
    return revision or domain.revision, ""


def _revoke(options: Options, entry: Callable[[Domain, float, str], Revoked]) -> None:
    import msgspec

    from agent.cli.etcd_client import ask

    async def revoked(store: Store) -> tuple[Revoked, int]:
        from agent.cli.identity.domain import now_s, settle
        from agent.cli.identity.revoking import added

        def decide(domain: Domain) -> tuple[Change, Revoked]:
            made = entry(domain, now_s(), who(options.mesh))
            return added(domain, made, now_s()), made

        made, domain, revision = await settle(store, options.mesh, decide)
        return made, revision or domain.revision

    made, revision = ask(options, revoked)
    if options.printer.json:
        options.printer.value({"revoked": msgspec.to_builtins(made), "revision": revision})
        return
    from agent.cli.identity.report import moment

    sort, value = made.subject
    options.printer.note(f"{sort} {value} is revoked, and the entry goes at {moment(made.until)}")
    options.printer.text(f"{revision}")


async def _expelled(store: Store, options: Options, name: str, reason: str, *, force: bool) -> dict[str, Any]:
    import msgspec

    from agent.cli.identity.expelling import expel
    from registry.etcd.store import EtcdStore

    assert isinstance(store, EtcdStore)
    done = await expel(store, options.mesh, name, reason, options.user, who(options.mesh), force=force)
    told: dict[str, Any] = msgspec.to_builtins(done)
    return told
