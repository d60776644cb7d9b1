"""`shoal guard`: the firewall's rules by which nobody but the agent reaches this host's instances."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.printing import say

if TYPE_CHECKING:
    from agent.settings.document import Settings


def guard(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="agent.toml, whose [guard] names the ports.")
    ] = None,
    user: Annotated[
        str, typer.Option("--user", help="The agent's user; without it: whose the agent's socket is.")
    ] = "",
    remove: Annotated[bool, typer.Option("--remove", help="What takes the rules away again.")] = False,
) -> None:
    """Print rules of nftables by which nobody but the agent reaches the ports of this host's instances.

    They are for the ports that [guard] of agent.toml names, whoever listens there: new instances need no other rules.

    Example:  shoal guard --config /etc/shoal/agent.toml | nft -f -
    """
    from agent.cli.commands.network.guard_rules import removal, rules
    from agent.ports import Ports
    from agent.settings.file import SettingsError, load

    if remove:
        _tell(removal())
        return
    try:
        settings = load(config)
    except SettingsError as error:
        raise Failure(str(error), Exit.USAGE) from None
    ports = Ports(settings.guard.ports).ranges
    if not ports:
        where = config or "agent.toml (--config FILE)"
        raise Failure(f'{where} names no ports to guard: [guard] ports = ["20000-29999"]', Exit.USAGE)
    uid = _agents_user(settings, user) if settings.guard.loopback == "agent" else None
    _tell(rules(ports, uid))


def _tell(text: str) -> None:
    for line in text.splitlines():
        say(line)


def _agents_user(settings: Settings, named: str) -> int:
    """Raises Failure."""
    if not named:
        try:
            return os.stat(settings.socket_path).st_uid
        except OSError:
            what = f"there is no {settings.socket_path} that would say whom the agent runs as"
            raise Failure(f"{what}; name its user: --user shoal", Exit.USAGE) from None
    try:
        return pwd.getpwuid(int(named)).pw_uid if named.isdecimal() else pwd.getpwnam(named).pw_uid
    except (KeyError, OverflowError):
        raise Failure(f"--user {named[:60]!r} is no user of this host", Exit.USAGE) from None
