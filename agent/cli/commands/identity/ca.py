"""`shoal ca`: the authority that makes certificates for a mesh: made, looked at, and handed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.commands.identity import revoke, rotate
from agent.cli.completion import hosts
from agent.cli.failure import Exit, Failure
from agent.cli.printing import field
from agent.findings.finding import named

if TYPE_CHECKING:
    from agent.cli.identity.founding import Founded, Wanted
    from agent.cli.options import Options
    from agent.cli.printing import Printer

app = typer.Typer(no_args_is_help=True, help="Certificates: make their authority, look at it, renew, revoke.")
app.add_typer(rotate.app, name="rotate")
app.add_typer(revoke.app, name="revoke")

KeyOption = Annotated[
    str,
    typer.Option(
        "--root-key", metavar="FILE", help="The root's private key; keep it offline. Made if it is not there."
    ),
]
PassphraseOption = Annotated[
    str, typer.Option("--passphrase-file", metavar="FILE", help="Holds what the root's key is encrypted with.")
]
IssuersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--issuer",
        metavar="HOST",
        help="A host whose agent issues certificates; may be repeated.",
        autocompletion=hosts,
    ),
]
TIMEOUT_S = 30.0


@app.callback()
def ca() -> None:
    """Make the authority of a mesh's certificates, look at it, renew and revoke what it has made."""


@app.command()
def init(
    context: typer.Context,
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", help="What names in certificates begin with; cannot be changed later.")
    ] = "",
    root_key: KeyOption = "",
    passphrase_file: PassphraseOption = "",
    issuer: IssuersOption = None,
    external: Annotated[
        str,
        typer.Option("--external", metavar="FILE", help="Roots (PEM) of another CA, which signs the intermediates."),
    ] = "",
    grant_observed: Annotated[
        bool, typer.Option("--grant-observed", help="Make nothing: print what is registered today as grants.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", "-t", min=0, help="Seconds to wait for issuers to ask.")
    ] = TIMEOUT_S,
) -> None:
    """Make a root for this mesh, and let hosts issue certificates. Nothing is granted by it.

    Broken off, or asked again with the same key, it goes on: it signs what issuers ask for, and names further ones.

    Example:  shoal ca init --issuer web-1 --issuer web-2
    """
    options: Options = context.obj
    if grant_observed:
        _print_observed(options)
        return
    from agent.cli.etcd_client import ask
    from agent.cli.identity.founding import Wanted, check_trust_domain, found
    from agent.cli.identity.issuers import certificates_in
    from agent.cli.identity.root_key import passphrase_in

    name = trust_domain or f"{options.mesh}.shoal"
    check_trust_domain(name)
    wanted = Wanted(
        mesh=options.mesh,
        trust_domain=trust_domain,
        key=Path(root_key or f"{name}-root.key"),
        passphrase=passphrase_in(passphrase_file),
        external=certificates_in(external) if external else (),
        issuers=tuple(issuer or _this_host(options)),
        timeout_s=timeout_s,
    )
    founded = ask(options, lambda store: found(store, wanted))
    _tell(options.printer, founded, wanted)


@app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="PEM: an intermediate, and what leads from it to a root.")
    ],
) -> None:
    """Take in intermediates that another CA has signed, each for the issuer that has asked with its key.

    Example:  shoal ca import web-1.pem web-2.pem
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import now_s, settle
    from agent.cli.identity.issuers import certificates_in, imported

    options: Options = context.obj
    chains = [list(certificates_in(str(file))) for file in files]
    taken, _, revision = ask(
        options, lambda store: settle(store, options.mesh, lambda domain: imported(domain, chains, now_s()))
    )
    if options.printer.json:
        options.printer.value({"issuers": taken, "revision": revision})
        return
    for host in taken:
        options.printer.note(f"{host} issues certificates now")
    options.printer.text(f"{revision}")


@app.command()
def status(context: typer.Context) -> None:
    """Show roots, issuers, who holds what until when, what is asked for and refused, and who lags behind.

    Exit code 1 when there is no CA, or somebody should do something.
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import now_s, take
    from agent.cli.identity.report import report

    options: Options = context.obj
    told = report(ask(options, lambda store: take(store, options.mesh)), now_s())
    if options.printer.json:
        options.printer.value(told)
    else:
        _show(options.printer, told)
    if told["wrong"]:
        raise typer.Exit(Exit.NO)


@app.command()
def export(
    context: typer.Context,
    pem: Annotated[bool, typer.Option("--pem", help="The roots alone, as PEM.")] = False,
) -> None:
    """Print the trust domain's bundle: a SPIFFE bundle document, for others who are to trust this mesh.

    Example:  shoal ca export > default.shoal.json
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import take
    from agent.identity.bundles import bundle_document
    from agent.identity.certificates import to_pem

    options: Options = context.obj
    bundle = ask(options, lambda store: take(store, options.mesh)).required()
    document = to_pem(list(bundle.roots)) if pem else bundle_document(bundle)
    options.printer.document(document.decode())


def _print_observed(options: Options) -> None:
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import take
    from agent.cli.identity.granting import observed

    lines = observed(ask(options, lambda store: take(store, options.mesh)))
    if options.printer.json:
        options.printer.value(lines)
        return
    for line in lines:
        options.printer.text(line)
    review = "read them before you run them: who is in a grant can be that service, whatever it registers"
    options.printer.note(review if lines else "nothing is registered that is not granted")


def _this_host(options: Options) -> list[str]:
    """The host of the agent that lives here; nobody where none does."""
    try:
        state = options.admin.state()
    except Failure:
        return []
    return [state["host"]] if state["mesh"] == options.mesh else []


def _tell(printer: Printer, founded: Founded, wanted: Wanted) -> None:
    from agent.cli.identity.domain import now_s
    from agent.cli.identity.report import report

    told = report(founded.domain, now_s())
    key = "" if wanted.external else str(wanted.key)
    if printer.json:
        csrs = {each.host: each.csr for each in founded.csrs}
        rows = {name: told[name] for name in ("trust_domain", "roots", "issuers", "revision")}
        printer.value({**rows, "root_key": key, "made": founded.made_key, "waiting": founded.waiting, "csrs": csrs})
        return
    _show_authority(printer, told)
    for each in founded.csrs:
        printer.note(f"# to be signed for {each.host}: a CA of path length 0, then `shoal ca import` with its chain")
        printer.document(each.csr)
    for step in _next_steps(founded, key):
        printer.note(step)


def _next_steps(founded: Founded, key: str) -> list[str]:
    steps = []
    if founded.made_key:
        steps.append(f"{key} is the root's key: take it off this host, and keep it; who has it is everybody")
    if founded.permissive:
        steps.append("tls is permissive for *: what has certificates on both sides is encrypted, all else stays plain")
    if not founded.domain.issuers:
        steps.append("nobody issues certificates yet: name hosts with `shoal ca init --issuer HOST`")
    for host in founded.waiting:
        why = "has not asked for an intermediate yet" if host in founded.domain.agents else "has no agent that lives"
        steps.append(f"{host} {why}; once it has, `shoal ca init` again signs it")
    steps.append("nothing is granted yet: `shoal ca init --grant-observed` prints what is registered today, to review")
    steps.append("a new host: `shoal host add HOST --service PATTERN`; what becomes of it all: `shoal ca status`")
    return steps


def _show_authority(printer: Printer, told: dict[str, Any]) -> None:
    printer.text(f"domain    {told['trust_domain']}, bundle {told['sequence']}")
    for root in told["roots"]:
        printer.text(f"root      {root['fingerprint']} until {root['until']}{_unless_current(root)}")
    for issuer in told["issuers"]:
        until = f"until {issuer['until']}, serial {issuer['serial']}" if issuer["until"] else "no intermediate"
        printer.text(f"issuer    {issuer['host']}: {until}{_unless_current(issuer)}")


def _unless_current(row: dict[str, Any]) -> str:
    return "" if row["state"] == "current" else f"; {row['state']}"


def _show(printer: Printer, told: dict[str, Any]) -> None:
    _show_authority(printer, told)
    printer.rows(
        told["held"],
        {"host": field("host"), "holds": field("name"), "until": field("until"), "state": field("state")},
        empty="nobody holds a certificate yet",
    )
    for host in told["hosts"]:
        if host["state"] != "current":
            printer.text(f"host      {host['host']}: {_of_host(host, told['sequence'])}")
    for row in told["pending"]:
        printer.text(f"pending   {row['host']} asks for {row['name']} since {row['since']}")
        _show_allowing(printer, row)
    for row in told["refused"]:
        printer.text(f"refused   {row['host']} asks for {row['name']}: {row['reason']}")
        _show_allowing(printer, row)
    for row in told["ungranted"]:
        why = "no grant names it" if row["allow"] else "the host is revoked"
        printer.text(f"ungranted {row['host']} has registered {row['name']}, and {why}")
        _show_allowing(printer, row)
    for row in told["hostless"]:
        printer.text(
            f"hostless  the grant of {row['pattern']} names {row['host']}, which no operator has added{row['meant']}"
        )
    for row in told["revoked"]:
        printer.text(f"revoked   {_revoked(row)}")
    for row in told["plain"]:
        printer.text(f"plain     {row['from']} -> {row['to']}: {named(row['services'])}, last at {row['last']}")
    for key, why in told["malformed"].items():
        printer.text(f"malformed {key}: {why}")


def _show_allowing(printer: Printer, row: dict[str, Any]) -> None:
    for line in row["allow"]:
        printer.text(f"allow     {line}")


def _revoked(row: dict[str, Any]) -> str:
    """An entry in words; its end is when nobody needs it any more."""
    reason = f" ({row['reason']})" if row["reason"] else ""
    since = f", since {row['since']}" if row["since"] else ""
    by = f", by {row['by']}" if row["by"] else ""
    return f"{row['sort']} {row['name']}{reason}{since}{by}; the entry goes at {row['until']}"


def _of_host(host: dict[str, Any], sequence: int) -> str:
    words = {
        "away": "its agent does not live",
        "not added": f"its agent lives, and it does not belong to the mesh; `shoal host add {host['host']}`",
        "revoked": "it was revoked and put out of the mesh, and its agent lives: stop it (see `revoked`)",
        "holds nothing": "its agent lives, and holds no certificate of its own",
        "lagging": f"runs bundle {host['bundle']}, and not {sequence}",
    }
    return words.get(str(host["state"]), str(host["state"]))
