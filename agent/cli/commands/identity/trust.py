"""`shoal trust`: other trust domains that are believed here, each by its own roots and for its own names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.printing import field

if TYPE_CHECKING:
    from agent.cli.identity.domain import Change, Domain
    from agent.cli.options import Options
    from agent.identity.bundles import Bundle

app = typer.Typer(no_args_is_help=True, help="Believe other trust domains, each by its own roots.")

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="partner.example")]


@app.callback()
def trust() -> None:
    """Believe what other trust domains prove: each by its own roots, and for its own names only."""


@app.command()
def add(
    context: typer.Context,
    domain: DomainArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its SPIFFE bundle document, or its roots as PEM.")],
) -> None:
    """Believe another trust domain by the bundle in a file, or by a newer one. Prints the revision.

    Example:  shoal trust add partner.example partner.json
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import settle
    from agent.cli.identity.federating import followed, read_bundle

    options: Options = context.obj
    offered = read_bundle(domain, file)

    def decide(here: Domain) -> tuple[Change, Bundle]:
        return followed(here, offered)

    taken, here, revision = ask(options, lambda store: settle(store, options.mesh, decide))
    if options.printer.json:
        options.printer.value(
            {"trust_domain": domain, "sequence": taken.sequence, "revision": revision or here.revision}
        )
        return
    words = "is believed" if revision else "is believed already"
    options.printer.note(f"{domain} {words}: {len(taken.roots)} roots, sequence {taken.sequence}")
    options.printer.text(f"{revision or here.revision}")


@app.command("list")
def list_(context: typer.Context) -> None:
    """List the trust domains that are believed beside the mesh's own."""
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import take
    from agent.cli.identity.issuers import fingerprint
    from agent.cli.identity.report import until

    options: Options = context.obj
    here = ask(options, lambda store: take(store, options.mesh))
    rows = [
        {
            "trust_domain": name,
            "sequence": bundle.sequence,
            "roots": [{"fingerprint": fingerprint(root), "until": until(root)} for root in bundle.roots],
        }
        for name, bundle in sorted(here.trusted.items())
    ]
    options.printer.rows(
        rows,
        {
            "domain": field("trust_domain"),
            "sequence": field("sequence"),
            "roots": lambda row: " ".join(root["fingerprint"][:16] for root in row["roots"]) or "-",
            "until": lambda row: min((root["until"] for root in row["roots"]), default="-"),
        },
        empty="no other trust domain is believed; `shoal trust add DOMAIN FILE` adds one",
    )


@app.command()
def rm(context: typer.Context, domain: DomainArgument) -> None:
    """Believe another trust domain no more. Prints the revision.

    Example:  shoal trust rm partner.example
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import Change, settle
    from registry.store import Delete

    options: Options = context.obj

    def decide(here: Domain) -> tuple[Change, None]:
        key = _key(here, domain)
        if not here.revision_of(key):
            raise Failure(f"{domain} is not believed here; `shoal trust list` has those that are")
        return Change([], [Delete(key)]), None

    _, _, revision = ask(options, lambda store: settle(store, options.mesh, decide))
    if options.printer.json:
        options.printer.value({"trust_domain": domain, "revision": revision})
        return
    options.printer.note(f"{domain} is believed no more")
    options.printer.text(f"{revision}")


def _key(here: Domain, domain: str) -> str:
    try:
        return here.keys.identity("trust", domain)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
