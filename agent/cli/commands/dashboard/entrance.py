"""Who is let in: the person who has started the process, in his own browser, by the page of this process.

Laws
- What asks is a process of the same user, by the kernel's word on its connection: another user of this machine gets
  nothing, whatever he has got hold of. (Who has it by `sudo` may use his own browser.)
- A browser has a cookie that is made anew for each run. It is given for a secret that counts once, and stands in no
  address afterwards. Other pages do not have it sent (SameSite=Strict), and no script sees it (HttpOnly).
- What another page has a browser ask is refused, and so is a name that was made to point here (agent.ui.browsers).
- The page's own files are the same everywhere and show nothing: they take no cookie, so that a link leads to them.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

from agent.cli.commands.dashboard.answers import problem, to
from agent.process.local_peers import owner_between
from agent.ui.browsers import Called, why_not

OPEN: Final = "/open/"
PAGE: Final = "/ui/"
CALLED: Final = Called()
"""By its address and as localhost only."""
Owner = Callable[[Any, Any], int | None]


def owner(other: Any, own: Any) -> int | None:
    """Whose process is at the other end of a connection, by its addresses; None: the kernel does not say."""
    found = owner_between(socket.AF_INET, other, own, groups=False)
    return None if found is None else found.uid


def users(environment: Mapping[str, str] = os.environ, own: int | None = None) -> frozenset[int]:
    """Whose processes are the person's."""
    own = os.geteuid() if own is None else own
    sudo = environment.get("SUDO_UID", "")
    return frozenset((own, int(sudo))) if own == 0 and sudo.isascii() and sudo.isdecimal() else frozenset((own,))


class Entrance:
    """Before an application."""

    def __init__(
        self,
        application: Callable[..., Awaitable[None]],
        port: int,
        users: Collection[int],
        owner: Owner = owner,
    ) -> None:
        self._application = application
        self._port = port
        self._users = users
        self._owner = owner
        self._secret = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)

    @property
    def address(self) -> str:
        """What opens the page, once."""
        return f"http://127.0.0.1:{self._port}{OPEN}{self._secret}"

    @property
    def cookie(self) -> str:
        """Its name: cookies of this host are those of all its ports."""
        return f"shoal-dashboard-{self._port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        answer = self._refused(connection)
        if answer is None and scope["path"].startswith(OPEN):
            answer = self._opened(connection)
        if answer is None:
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close"})  # before it is accepted: 403

    def _refused(self, connection: HTTPConnection) -> Response | None:
        scope = connection.scope
        path, http = scope["path"], scope["type"] == "http"
        if not scope.get("client") or not scope.get("server"):
            return problem(403, "nobody knows who asks")
        if self._owner(scope["client"], scope["server"]) not in self._users:
            return problem(403, "another user of this machine has started this; start your own `shoal dashboard`")
        is_page = http and (path in ("/", PAGE) or path.startswith(OPEN))
        if why := why_not(connection.headers, scope.get("method", ""), CALLED, is_page=is_page):
            return problem(403, why)
        if http and (path == "/" or path.startswith((PAGE, OPEN))):
            return None
        if not self._known(connection):
            return problem(403, "open it by the address that `shoal dashboard` has printed; it counts once")
        return None

    def _known(self, connection: HTTPConnection) -> bool:
        shown = connection.cookies.get(self.cookie, "")
        return secrets.compare_digest(shown.encode(), self._cookie.encode())

    def _opened(self, connection: HTTPConnection) -> Response:
        if self._known(connection):
            return to(PAGE)
        if connection.scope.get("method") != "GET" or "prefetch" in connection.headers.get("sec-purpose", ""):
            return problem(403, "a person opens it")
        shown = connection.scope["path"].removeprefix(OPEN)
        if not self._secret or not secrets.compare_digest(shown.encode(), self._secret.encode()):
            return problem(403, "this address counts once, and was used or is another; start `shoal dashboard` again")
        self._secret = ""
        answer = to(PAGE)
        answer.set_cookie(self.cookie, self._cookie, path="/", httponly=True, samesite="strict")
        return answer
