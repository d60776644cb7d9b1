"""Who on this host may do what with its agent. Pure, but for the names of users, which are looked up once.

Laws
- What anybody on the host may see is what the admin port shows; everything that changes something, or shows a secret or
  what a service said, is asked for through the agent's socket, where the kernel says who asks.
- Root and the agent's own user may do everything; nobody else may anything that the settings do not say.
- A user is never believed by name: what is compared are the numbers of the process at the other end.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final, NamedTuple

from agent.settings.document import LocalPart
from agent.settings.file import SettingsError
from policies.language.names import candidates, parse_pattern

ROOT: Final = 0


class Right(Enum):
    """What it takes to ask for something."""

    LOOK = "look"
    """Nothing: the admin port answers it, too."""
    SERVE = "serve"
    """To be allowed to be the service that it is about."""
    OPERATE = "operate"


class Peer(NamedTuple):
    """The process at the other end of a connection, as the kernel knows it."""

    uid: int
    gids: frozenset[int] = frozenset()

    def __str__(self) -> str:
        try:
            return f"user {pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:
            return f"uid {self.uid}"


class _Members(NamedTuple):
    uids: frozenset[int]
    gids: frozenset[int]

    def have(self, peer: Peer) -> bool:
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.gids)


_NOBODY: Final = _Members(frozenset(), frozenset())


class Rights:
    """`[local]` of the settings, with the users' numbers."""

    def __init__(self, local: LocalPart, own_uid: int) -> None:
        """Raises SettingsError for users and groups that this host does not have."""
        self._masters = frozenset((ROOT, own_uid))
        self._operators = _members("local.operate", local.operate)
        self._services: Mapping[str, _Members] = {
            parse_pattern(pattern): _members(f"local.services.{pattern}", names)
            for pattern, names in local.services.items()
        }

    def may_operate(self, peer: Peer) -> bool:
        """Whether the agent as a whole is this user's to steer."""
        return peer.uid in self._masters or self._operators.have(peer)

    def may_be(self, peer: Peer, service: str) -> bool:
        """Whether this user's programs may be instances of a service, and call in its name.

        The most specific pattern decides alone, as everywhere: who is named for `*` is not let in where
        `payments.production` names others.
        """
        if self.may_operate(peer):
            return True
        pattern = next((name for name in candidates(service) if name in self._services), "")
        return self._services.get(pattern, _NOBODY).have(peer)


def _members(where: str, names: Iterable[str]) -> _Members:
    """`alice`, `@developers`, `1000`, `@1000`."""
    uids, gids = set(), set()
    for name in names:
        if name.startswith("@"):
            gids.add(_number(where, name[1:], lambda group: grp.getgrnam(group).gr_gid, "group"))
        else:
            uids.add(_number(where, name, lambda user: pwd.getpwnam(user).pw_uid, "user"))
    return _Members(frozenset(uids), frozenset(gids))


def _number(where: str, name: str, look_up: Callable[[str], int], kind: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        raise SettingsError(
            f"{where}: this host has no {kind} {name[:60]!r}; a user as alice or 1000, a group as @staff or @50"
        ) from None
