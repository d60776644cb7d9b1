"""`shoal ca rotate`: certificates, intermediates and roots are replaced, and nothing fails meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.completion import hosts
from agent.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from agent.cli.identity.domain import Domain
    from agent.cli.options import Options
    from registry.store import Store

app = typer.Typer(no_args_is_help=True, help="Replace certificates, intermediates, the root; nothing fails meanwhile.")

KeyOption = Annotated[str, typer.Option("--root-key", metavar="FILE", help="The root's private key.")]
PassphraseOption = Annotated[
    str, typer.Option("--passphrase-file", metavar="FILE", help="Holds what the root's key is encrypted with.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", "-t", min=0, help="Seconds to wait for agents.")]
TIMEOUT_S = 60.0
ROOT_TIMEOUT_S = 300.0
NAMED = 10
"""Of those that are not done, how many are named."""


@app.callback()
def rotate() -> None:
    """Replace what agents and services hold, what issuers sign with, or the root."""


@app.command()
def leaf(
    context: typer.Context,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="Only this one's; may be repeated.", autocompletion=hosts)
    ] = None,
    timeout_s: TimeoutOption = TIMEOUT_S,
) -> None:
    """Have agents renew their certificates, and their services', now. What they have is used until the next is there.

    Exit code 1 when some are not renewed in time; they go on trying. What was stolen wants `shoal ca revoke`.

    Example:  shoal ca rotate leaf --host web-1
    """
    from agent.cli.etcd_client import ask

    options: Options = context.obj
    named, revision, left = ask(options, lambda store: _renewed(store, options.mesh, host or [], timeout_s))
    if options.printer.json:
        options.printer.value({"hosts": named, "revision": revision, "not_renewed": left})
    else:
        options.printer.note(f"{len(named)} hosts were asked to renew, at revision {revision}")
    if left:
        raise Failure(f"not renewed after {timeout_s:g} s: {few(left)}; `shoal ca status` says more")


@app.command()
def intermediate(
    context: typer.Context,
    root_key: KeyOption = "",
    passphrase_file: PassphraseOption = "",
    external: Annotated[bool, typer.Option("--external", help="Another CA signs: print what issuers ask for.")] = False,
    timeout_s: TimeoutOption = TIMEOUT_S,
) -> None:
    """Sign what issuers ask for, anew for each of them. Certificates that they made before stay good.

    Example:  shoal ca rotate intermediate --root-key /media/usb/default.shoal-root.key
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.report import until
    from agent.cli.identity.root_key import passphrase_in

    options: Options = context.obj
    key = Path(root_key) if root_key else None
    if external:
        _print_requests(options)
        return
    domain, waiting = ask(
        options, lambda store: _signed(store, options.mesh, key, passphrase_in(passphrase_file), timeout_s)
    )
    from agent.cli.identity.issuers import intermediate as held

    ends = {host: until(found) for host in sorted(domain.issuers) if (found := held(domain, host)) is not None}
    if options.printer.json:
        options.printer.value({"issuers": ends, "waiting": waiting})
    else:
        for host, end in ends.items():
            if host not in waiting:
                options.printer.text(f"issuer    {host}: until {end}")
    if waiting:
        raise Failure(f"no request stands of {few(waiting)}: nothing was signed for it; its agent's log says why")


@app.command()
def root(
    context: typer.Context,
    root_key: Annotated[
        str, typer.Option("--root-key", metavar="FILE", help="The new root's private key; made if it is not there.")
    ] = "",
    passphrase_file: PassphraseOption = "",
    external: Annotated[
        str, typer.Option("--external", metavar="FILE", help="The new root (PEM) of another CA, which signs.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Go on without those that are not done: they are named, and cut off.")
    ] = False,
    back: Annotated[bool, typer.Option("--abort", help="Take back a new root that nothing leads to yet.")] = False,
    timeout_s: TimeoutOption = ROOT_TIMEOUT_S,
) -> None:
    """Replace the root, in steps that overlap: all believe both, all hold what leads to the new one, the old one goes.

    Broken off, the same command goes on. With the key of the root of before it leads back.

    Example:  shoal ca rotate root --root-key /media/usb/new.key
    """
    from agent.cli.etcd_client import ask
    from agent.cli.identity.root_key import passphrase_in
    from agent.cli.identity.turning import abort

    options: Options = context.obj
    if back:
        taken, revision = ask(options, lambda store: abort(store, options.mesh))
        options.printer.note(f"{taken} is no root any more")
    elif bool(root_key) == bool(external):
        raise Failure(
            "say with --root-key where the new root's key is, or goes (or with --external its root)", Exit.USAGE
        )
    else:
        secret = passphrase_in(passphrase_file)
        revision = ask(options, lambda store: _turned(store, options, root_key, secret, external, force, timeout_s))
    if options.printer.json:
        options.printer.value({"revision": revision})
    else:
        options.printer.text(f"{revision}")


def few(names: list[str]) -> str:
    """Names, of many the first."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


async def _renewed(store: Store, mesh: str, hosts: list[str], timeout_s: float) -> tuple[list[str], int, list[str]]:
    from agent.cli.identity.domain import wait_for
    from agent.cli.identity.renewing import not_renewed, wish

    named, revision = await wish(store, mesh, hosts)
    _, left = await wait_for(store, mesh, timeout_s, lambda domain: not_renewed(domain, named, revision))
    return named, revision, left


async def _turned(
    store: Store, options: Options, key: str, passphrase: bytes, external: str, force: bool, timeout_s: float
) -> int:
    from agent.cli.identity.domain import now_s, take
    from agent.cli.identity.issuers import certificates_in
    from agent.cli.identity.root_key import next_root
    from agent.cli.identity.turning import Turn, turn

    bundle = (await take(store, options.mesh)).required()
    if external:
        signer, wanted = None, certificates_in(external)[0]
    else:
        signer = next_root(Path(key), passphrase, bundle, now_s())
        wanted = signer.certificate
    if bundle.roots == (wanted,):
        raise Failure("this root is the only one already; for a new one name a file that is not there yet (--root-key)")
    asked = Turn(
        mesh=options.mesh, root=wanted, signer=signer, timeout_s=timeout_s, force=force, say=options.printer.note
    )
    return await turn(store, asked)


async def _signed(
    store: Store, mesh: str, path: Path | None, passphrase: bytes, timeout_s: float
) -> tuple[Domain, list[str]]:
    from agent.cli.identity.domain import take
    from agent.cli.identity.founding import sign
    from agent.cli.identity.root_key import read, signer

    bundle = (await take(store, mesh)).required()
    path = path or Path(f"{bundle.trust_domain}-root.key")
    root = signer(read(path, passphrase), bundle, path)
    return await sign(store, mesh, root, timeout_s, anew=True)


def _print_requests(options: Options) -> None:
    from agent.cli.etcd_client import ask
    from agent.cli.identity.domain import take
    from agent.cli.identity.issuers import asking

    domain = ask(options, lambda store: take(store, options.mesh))
    domain.required()
    ready, waiting = asking(domain, sorted(domain.issuers))
    if options.printer.json:
        options.printer.value({"csrs": {each.host: each.csr for each in ready}, "waiting": waiting})
        return
    for each in ready:
        options.printer.note(
            f"# to be signed for {each.host}: a CA of path length 0, then `shoal ca import` with its chain"
        )
        options.printer.document(each.csr)
    if waiting:
        options.printer.note(f"no request stands of {few(waiting)}")
