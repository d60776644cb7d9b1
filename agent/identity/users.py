# mypyc: interpreted, because it is asked once for a connection
"""Users of this host, and which services their programs may be: `[local]` of the settings, with numbers. Pure, but for
the names of users, which are looked up for people.

Laws
- Root and the agent's own user may do everything; nobody else may anything that the settings do not say.
- A user is never believed by name: what is compared are the numbers that the kernel has of a process.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from policies.language.names import candidates

ROOT: Final = 0


class User(NamedTuple):
    """The process at the other end of a connection, as the kernel knows it."""

    uid: int
    gids: frozenset[int] = frozenset()

    def __str__(self) -> str:
        try:
            return f"user {pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:
            return f"uid {self.uid}"


class Members(NamedTuple):
    """Whom a setting names."""

    uids: frozenset[int]
    gids: frozenset[int]

    def have(self, user: User) -> bool:
        """Whether it names this one, or a group of this one's."""
        return user.uid in self.uids or not self.gids.isdisjoint(user.gids)


NOBODY: Final = Members(frozenset(), frozenset())


class Users:
    """Who may do what."""

    def __init__(self, masters: Iterable[int], operators: Members, services: Mapping[str, Members]) -> None:
        """`masters`: the numbers of those who may do everything; `services` by name or pattern."""
        self.masters = frozenset(masters)
        self.operators = operators
        self.services = services

    def may_operate(self, user: User) -> bool:
        """Whether the agent as a whole is this user's to steer."""
        return user.uid in self.masters or self.operators.have(user)

    def may_be(self, user: User, service: str) -> bool:
        """Whether this user's programs may be instances of a service, and call in its name.

        The most specific pattern decides alone, as everywhere: who is named for `*` is not let in where
        `payments.production` names others.
        """
        if self.may_operate(user):
            return True
        pattern = next((name for name in candidates(service) if name in self.services), "")
        return self.services.get(pattern, NOBODY).have(user)

    def stranger(self, user: User | None, service: str) -> str:
        """Why what a user's program listens at is not believed to be a service, where the settings say who may be it;
        empty: it is. None: it is not known whose it is."""
        if user is None or not any(name in self.services for name in candidates(service)):
            return ""
        return "" if self.may_be(user, service) else f"{user} listens there, who may not be {service} (local.services)"

    def only(self, user: User) -> str:
        """The one service that the settings name for this user; empty where there is none, several, or a pattern."""
        found = [pattern for pattern, members in self.services.items() if members.have(user)]
        return found[0] if len(found) == 1 and "*" not in found[0] else ""

    @property
    def by_group(self) -> bool:
        """Whether any group is named: else nobody's matter."""
        return bool(self.operators.gids) or any(members.gids for members in self.services.values())
