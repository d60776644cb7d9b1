"""`shoal agent`: the agent itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.printing import lines, say

if TYPE_CHECKING:
    from agent.settings.document import Settings

HINT = """\
try, in another terminal:
    shoal run --service hello -- python3 -m http.server {{port}}
    curl -H 'Host: hello' http://{outbound}/
"""


def agent(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="agent.toml; without it: the defaults.")
    ] = None,
    dev: Annotated[bool, typer.Option("--dev", help="Start an etcd of its own, for trying things out.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the settings are good, and Shoal is installed whole.")
    ] = False,
) -> None:
    """Run the agent of this host, until SIGTERM or Ctrl-C. SIGHUP reloads it without losing a request.

    Example:  shoal agent --dev
    """
    from agent.settings.file import SettingsError, load
    from registry.etcd.server import NoEtcd

    try:
        settings = load(config)
        if check:
            _check_installation()
            _check_places(settings)
            say("the settings are good")
            return
        from agent import build

        if build.kind() == build.MIXED:
            raise Failure(f"this installation is broken: {build.reason()}", Exit.USAGE)
        from agent.control.main import main

        if dev:
            _check_alone(settings)
            lines(HINT.format(outbound=settings.outbound.listen))
        code = main(settings, config=config, dev=dev)
    except SettingsError as error:
        raise Failure(str(error), Exit.USAGE) from None
    except NoEtcd as error:
        reason, _, log = str(error).partition("\n")
        raise Failure(f"the agent cannot start: {reason}", Exit.USAGE, log) from None
    except OSError as error:
        raise Failure(f"the agent cannot start: {_reason(error)}", Exit.USAGE) from None
    raise typer.Exit(code)


def _check_places(settings: Settings) -> None:
    """Raises Failure for files that have to be there, and are not: the agent starts, and loses its records."""
    log = Path(settings.access_log).parent if settings.access_log else Path()
    if not log.is_dir():
        raise Failure(f"$.access_log: there is no folder {log}; make it, or name another", Exit.USAGE)
    for n, sink in enumerate(settings.records.sinks):
        files = {f"headers.{name}": file for name, file in sink.headers.items()}
        files |= {name: file for name in ("ca", "cert", "key") if (file := str(getattr(sink, name)))}
        for name, file in files.items():
            if not Path(file).is_file():
                raise Failure(f"$.records.sinks[{n}].{name}: there is no file {file}", Exit.USAGE)


def _check_installation() -> None:
    """Raises Failure that says what is missing: an agent would find it out when it starts, or later."""
    from agent.installation import faults

    if found := faults():
        raise Failure("this installation is broken: " + "; ".join(found), Exit.USAGE)


def _check_alone(settings: Settings) -> None:
    """Raises OSError where somebody has our addresses.

    Asked before the etcd of our own is started, which takes a while. After SIGHUP they are ours already.
    """
    from agent.control.host.sockets import HANDOVER, check_free
    from agent.settings.address import parse_listen

    if HANDOVER not in os.environ and "LISTEN_PID" not in os.environ:
        for part in (settings.outbound, settings.inbound, settings.admin):
            check_free(parse_listen(part.listen))


def _reason(error: OSError) -> str:
    """What the system says, without its number; `file: reason` where it is about a file."""
    told = error.strerror or str(error)
    return f"{error.filename}: {told}" if error.filename else told
