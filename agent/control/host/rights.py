"""Who on this host may do what with its agent: `agent.identity.users`, as the settings say it.

Law: what anybody on the host may see is what the admin port shows; everything that changes something, or shows a secret
or what a service said, is asked for through the agent's socket, where the kernel says who asks.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable, Iterable
from enum import Enum

from agent.frames import LocalUsers
from agent.identity.users import ROOT, Members, User, Users
from agent.settings.document import LocalPart
from agent.settings.file import SettingsError
from policies.language.names import parse_pattern


class Right(Enum):
    """What it takes to ask for something."""

    LOOK = "look"
    """Nothing: the admin port answers it, too."""
    READ = "read"
    """What requests said: to operate the agent, or to tap; or, as a person who has logged in, to view."""
    TAP = "tap"
    """What is in live requests: to operate, or to be one of those who may tap; or, as a person, to tap."""
    OUTPUT = "output"
    """What programs write: what TAP takes; of one's own programs, to be their user on this host."""
    SERVE = "serve"
    """To be allowed to be the service that it is about."""
    OPERATE = "operate"


class Rights(Users):
    """`[local]` of the settings, with the users' numbers."""

    def __init__(self, local: LocalPart, own_uid: int) -> None:
        """Raises SettingsError for users and groups that this host does not have."""
        services = {
            parse_pattern(pattern): _members(f"local.services.{pattern}", names)
            for pattern, names in local.services.items()
        }
        super().__init__((ROOT, own_uid), _members("local.operate", local.operate), services)
        self._tappers = _members("local.tap", local.tap)

    def may_tap(self, user: User) -> bool:
        """Whether live requests are for this user to look into."""
        return self.may_operate(user) or self._tappers.have(user)

    def for_workers(self) -> LocalUsers:
        """What they judge callers by."""
        services = {pattern: _numbers(members) for pattern, members in self.services.items()}
        return LocalUsers(sorted(self.masters), _numbers(self.operators), services)


def _numbers(members: Members) -> tuple[list[int], list[int]]:
    return sorted(members.uids), sorted(members.gids)


def _members(where: str, names: Iterable[str]) -> Members:
    """`alice`, `@developers`, `1000`, `@1000`."""
    uids, gids = set(), set()
    for name in names:
        if name.startswith("@"):
            gids.add(_number(where, name[1:], lambda group: grp.getgrnam(group).gr_gid, "group"))
        else:
            uids.add(_number(where, name, lambda user: pwd.getpwnam(user).pw_uid, "user"))
    return Members(frozenset(uids), frozenset(gids))


def _number(where: str, name: str, look_up: Callable[[str], int], kind: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        raise SettingsError(
            f"{where}: this host has no {kind} {name[:60]!r}; a user as alice or 1000, a group as @staff or @50"
        ) from None
