"""Pages in browsers at the admin API: `agent.ui.browsers`, by the listener that a request came to."""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection

from agent.ui import browsers
from agent.ui.browsers import Called

CALLED: Final = "shoal.called"
"""Where a request's scope has how the agent is called at that listener."""


def called(connection: HTTPConnection) -> Called:
    """How the agent is called there."""
    found: Called | None = connection.scope.get(CALLED)
    return Called() if found is None else found


def why_not(connection: HTTPConnection, *, is_page: bool = False) -> str:
    """Why a request, or a WebSocket that is to be opened, is none that a program or the agent's own page makes; empty:
    it is. `is_page`: it is for the page itself, to which people are led from elsewhere."""
    method = connection.scope.get("method", "")
    return browsers.why_not(connection.headers, method, called(connection), is_page=is_page)
