# mypyc: compiled
"""Who has taken the port of an instance of this host: where the settings say which users may be a service, a program of
another user is not sent its requests.

Law: it is asked once a connection is there, and before anything is sent by it. What was asked earlier could have
changed hands in between; who has a connection keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.identity.users import Users
from agent.process.local_peers import holder_of

if TYPE_CHECKING:
    from agent.proxy.engine.connection import Wire


class Doorkeeper:
    """Of one worker."""

    __slots__ = ("_users", "turned_down")

    def __init__(self, users: Users) -> None:
        self._users = users
        self.turned_down = 0
        """Connections."""

    def stranger(self, service: str, sock: Wire) -> str:
        """Why whoever is at the other end is not believed to be a service; empty: he is, as far as is known."""
        why = self._users.stranger(holder_of(sock, groups=self._users.by_group), service)
        if why:
            self.turned_down += 1
        return why
