"""The process: a listening socket of loopback, what is served there, and the browser that is asked to look.

Laws: the address that opens the page is told to nobody else. A browser is started with the name of a file, which only
the person can read: what a process is started with, every user of a machine can see. Anybody on this machine may
connect, and so connections are bounded as those of an agent's ports are (`agent.process.guests`).
"""

from __future__ import annotations

import html
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio
from hypercorn.config import Config

from agent.cli.commands.dashboard.application import Dashboard
from agent.cli.commands.dashboard.entrance import Entrance, users
from agent.cli.commands.dashboard.forwarding import MAX_MESSAGE_BYTES, WITHIN_S, Forwarding
from agent.cli.commands.dashboard.writing import Documents
from agent.cli.options import Options
from agent.process.guests import Guests

BACKLOG: Final = 64
MOST: Final = 64
"""Connections: a browser has some six of its own, and one for each page that watches."""
IDLE_S: Final = 30.0
"""Until the head of a request is there, or between two requests."""
_LEADS: Final = """<!doctype html><meta charset="utf-8"><title>Shoal</title>
<meta http-equiv="refresh" content="0;url={address}"><a href="{address}">Open the page</a>
"""


class Serving:
    """From the moment that it listens. Raises OSError for a port that is taken."""

    def __init__(self, options: Options, port: int) -> None:
        self._options = options
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._sock.bind(("127.0.0.1", port))
            self._sock.listen(BACKLOG)
        except OSError:
            self._sock.close()
            raise
        forwarding = Forwarding(lambda: options.admin.place, options.mesh)
        documents = Documents(options, options.printer.note)
        application: Any = Dashboard(forwarding, documents, options.mesh).application()
        self._entrance = Entrance(application, self._sock.getsockname()[1], users())

    @property
    def address(self) -> str:
        """What opens it, once."""
        return self._entrance.address

    async def run(self, show: Callable[[Path], bool] | None) -> None:
        """Until Ctrl-C. `show`: shows a file to the person."""
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                nursery.start_soon(self._serve)
                if show is not None:
                    nursery.start_soon(self._show, show)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        config = Config()
        config.accesslog = config.errorlog = None
        config.keep_alive_timeout = IDLE_S
        config.h11_max_incomplete_size = 64 * 1024
        config.websocket_max_message_size = MAX_MESSAGE_BYTES
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
        # As long as the agent has, and a little more: an answer that says that it has not come is one.
        await Guests(self._entrance, config, MOST, request_s=WITHIN_S + 10).serve(listener)

    async def _show(self, show: Callable[[Path], bool]) -> None:
        path = await trio.to_thread.run_sync(self._written)
        try:
            shown = await trio.to_thread.run_sync(show, path, abandon_on_cancel=True)
            if not shown:
                self._options.printer.note("no browser could be started; open the address in one of yours")
            await trio.sleep_forever()
        finally:
            path.unlink(missing_ok=True)

    def _written(self) -> Path:
        """A file that leads there, for this user only."""
        folder = os.environ.get("XDG_RUNTIME_DIR") or None
        handle, name = tempfile.mkstemp(prefix="shoal-dashboard-", suffix=".html", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(_LEADS.format(address=html.escape(self.address, quote=True)))
        return Path(name)
