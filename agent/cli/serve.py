"""`shoal agent`: the agent itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.failure import Exit, Failure


def agent(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="agent.toml; without it: the defaults.")
    ] = None,
    dev: Annotated[bool, typer.Option("--dev", help="Start an etcd of its own, for trying things out.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the settings are good.")] = False,
) -> None:
    """Run the agent of this host, until SIGTERM or Ctrl-C. SIGHUP reloads it without losing a request.

    Example:  shoal agent --dev
    """
    from agent.settings import SettingsError, load

    try:
        settings = load(config)
        if check:
            print("the settings are good")
            return
        from agent.control.main import main

        code = main(settings, config=config, dev=dev)
    except SettingsError as error:
        raise Failure(str(error), Exit.USAGE) from None
    except OSError as error:
        raise Failure(f"the agent cannot start: {error}", Exit.USAGE) from None
    raise typer.Exit(code)
