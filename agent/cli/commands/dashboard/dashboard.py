"""`shoal dashboard`: the page, on a port of loopback, for the person who has started it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.options import Options


def dashboard(
    context: typer.Context,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of loopback; 0: one that is free.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser, and only print the address.")] = False,
) -> None:
    """Open the page: the mesh as the agent sees it, live, and why requests go where they go.

    What it shows the agent judges, as of every command; documents are written with your own rights at etcd. The
    address that is printed opens it once, in a browser of yours on this machine. Ctrl-C ends it.

    Example:  shoal dashboard
    """
    import trio

    from agent.cli.commands.dashboard.serving import Serving

    options: Options = context.obj
    options.admin  # noqa: B018 - refuses a place that is none before anything is opened
    try:
        serving = Serving(options, port)
    except OSError as error:
        raise Failure(
            f"port {port} of 127.0.0.1: {error.strerror}; --port 0 takes one that is free", Exit.USAGE
        ) from None
    if options.printer.json:
        options.printer.line({"url": serving.address})
    else:
        options.printer.text(serving.address)
        options.printer.note("opens the page once, in a browser on this machine; Ctrl-C ends it")
    options.printer.flush()
    trio.run(serving.run, None if no_open else _open)


def _open(path: Path) -> bool:
    """Whether a browser was asked to show a file. Without a screen there is none but those that take the terminal."""
    import webbrowser

    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return screen and webbrowser.open(path.as_uri())
