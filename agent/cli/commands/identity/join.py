"""`shoal join`: this host becomes one of the mesh, with a token that an operator has made for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agent.cli.failure import Exit, Failure
from agent.cli.printing import note

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from agent.cli.identity.joining import Member
    from agent.cli.options import Options
    from agent.control.identity.files import Files
    from agent.identity.tokens import Token
    from agent.settings.document import Settings

AGAIN_S = 5.0
LATEST_S = 3600.0


def join(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="As `shoal host add` has printed it, whole.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="The agent's agent.toml: its name, its state_dir."),
    ] = None,
    state_dir: Annotated[
        str,
        typer.Option("--state-dir", metavar="DIR", help="Where the agent keeps its state, if not as agent.toml says."),
    ] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout", "-t", min=0, help="Seconds to try, while no issuer can be reached.")
    ] = LATEST_S,
) -> None:
    """Make this host one of the mesh, before its agent starts: that gets an identity, whose key is made and stays here.

    Run it as the agent's user. The token is good once; who has used it before is told to the operators.

    Example:  sudo -u shoal shoal join --config /etc/shoal/agent.toml --state-dir /var/lib/shoal shoal1.…
    """
    from agent.cli.identity.joining import read

    read_token = read(token, time.time())
    if read_token.person:
        raise Failure(f"this token lets {read_token.person} in, who is no host: `shoal login`", Exit.USAGE)
    settings = _settings(config, state_dir)
    if settings.mesh != read_token.mesh:
        wrong = f"this token is of the mesh {read_token.mesh!r}, and this host's agent of {settings.mesh!r}"
        raise Failure(f"{wrong}: set `mesh` in its agent.toml (--config)", Exit.USAGE)
    if settings.host != read_token.host:
        raise Failure(
            f"this token lets {read_token.host} in, and this host's agent is called {settings.host}: set `host` in its "
            "agent.toml (--config), or have a token made for that name",
            Exit.USAGE,
        )
    member = _joined(settings, read_token, time.monotonic() + timeout_s)
    _tell(context.obj, settings, read_token, member)


def _settings(config: Path | None, state_dir: str) -> Settings:
    from agent.settings.file import SettingsError, load

    try:
        settings = load(config)
    except SettingsError as error:
        raise Failure(str(error), Exit.USAGE) from None
    return msgspec.structs.replace(settings, state_dir=state_dir) if state_dir else settings


def _joined(settings: Settings, token: Token, deadline: float) -> Member:
    """Makes a key, and asks until some issuer answers. Raises Failure."""
    from agent.cli.identity.joining import Lost
    from agent.control.host import disk
    from agent.control.identity.files import Files
    from registry.keys import AGENT_REQUEST

    folder = settings.state_path
    try:
        lock = disk.lock(folder)
    except OSError as error:
        raise Failure(
            f"{error.strerror or error}; run this as the agent's user, while it does not run", Exit.USAGE
        ) from None
    files = Files(folder / "identity", settings.mesh)
    kept = files.make_key(AGENT_REQUEST) if lock is not None else None
    if kept is None:
        raise Failure(f"{folder} cannot be written to; run this as the agent's user (--state-dir)", Exit.USAGE)
    try:
        member = _asked(token, kept.key, deadline)
    except Lost as lost:
        raise Failure(
            f"{lost}. If `shoal host list` has no token for it any more, `shoal host add {token.host}` makes another"
        ) from None
    except BaseException:
        files.drop(kept.path)
        raise
    _keep(files, settings.mesh, kept.key, member)
    return member


def _asked(token: Token, key: ec.EllipticCurvePrivateKey, deadline: float) -> Member:
    from agent.cli.identity.joining import Away, join_at
    from agent.identity.certificates import key_digest, make_request
    from agent.proxy.engine.handshake import chain_of

    csr, digest = make_request(key).decode(), key_digest(key.public_key())
    said: set[str] = set()
    while True:
        for place in token.issuers:
            try:
                return join_at(place, token, csr, digest, chain_of, time.time())
            except Away as away:
                if str(away) not in said:
                    note(str(away))
                said.add(str(away))
        left_s = min(deadline - time.monotonic(), token.until - time.time())
        if left_s <= 0:
            raise Failure(f"no issuer has let this host in: {'; '.join(sorted(said))}", Exit.UNREACHABLE)
        time.sleep(min(AGAIN_S, left_s))


def _keep(files: Files, mesh: str, key: ec.EllipticCurvePrivateKey, member: Member) -> None:
    from registry.keys import AGENT_REQUEST, Keys

    held = files.hold(AGENT_REQUEST, key, member.chain)
    believed = [(Keys(mesh).identity("bundle"), member.document, 0)]
    if held is None or not files.save(believed):
        raise Failure(
            "the token is redeemed, and what came cannot be written to disk; make room, and have another made"
        )


def _tell(options: Options, settings: Settings, token: Token, member: Member) -> None:
    from agent.cli.identity.report import until

    end = until(member.chain[0])
    if options.printer.json:
        options.printer.value({"host": token.host, "trust_domain": token.trust_domain, "until": end})
        return
    options.printer.text(f"{token.host} belongs to {token.trust_domain}, until {end}; its agent renews it")
    options.printer.note(f"its key is in {settings.state_path / 'identity'}, and nowhere else; start the agent now")
