"""What has to be done in etcd for roles and users to be as they are to be: each step as a line for `etcdctl`. Pure.

Law: nobody loses a right, or a role, that is none of this mesh's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from registry.rights import Grant, Role

PASSWORD: Final = "$PASSWORD"  # noqa: S105 - a variable of the shell


class AddRole(NamedTuple):
    """A role without rights."""

    role: str

    def __str__(self) -> str:
        return _line("role", "add", self.role)


class Permit(NamedTuple):
    """A right for a role."""

    role: str
    grant: Grant

    def __str__(self) -> str:
        where = ["--prefix=true"] if self.grant.end else []
        return _line("role", "grant-permission", self.role, *where, self.grant.may, self.grant.key)


class Forbid(NamedTuple):
    """A right that a role has no more."""

    role: str
    grant: Grant

    def __str__(self) -> str:
        where = ["--prefix=true"] if self.grant.end else []
        return _line("role", "revoke-permission", self.role, *where, self.grant.key)


class AddUser(NamedTuple):
    """A user; empty password: known by a certificate."""

    user: str
    password: str

    def __str__(self) -> str:
        how = [f'--new-user-password "{PASSWORD}"'] if self.password else ["--no-password"]
        return " ".join([_line("user", "add", self.user), *how])


class Give(NamedTuple):
    """A role for a user."""

    user: str
    role: str

    def __str__(self) -> str:
        return _line("user", "grant-role", self.user, self.role)


Step: TypeAlias = AddRole | Permit | Forbid | AddUser | Give


def for_roles(wanted: Iterable[Role], standing: Mapping[str, Role]) -> Iterator[Step]:
    """So that each of the roles has its rights, and no others."""
    for role in wanted:
        before = standing.get(role.name)
        if before is None:
            yield AddRole(role.name)
        has = before.grants if before is not None else frozenset()
        places = {(grant.key, grant.end) for grant in role.grants}
        for grant in sorted(has):
            if (grant.key, grant.end) not in places:
                yield Forbid(role.name, grant)
        for grant in sorted(role.grants - has):
            yield Permit(role.name, grant)


def for_user(user: str, password: str, roles: Sequence[str], standing: Mapping[str, Sequence[str]]) -> Iterator[Step]:
    """So that a user is there, and has the roles."""
    if user not in standing:
        yield AddUser(user, password)
    for role in roles:
        if role not in standing.get(user, ()):
            yield Give(user, role)


def _line(*words: str) -> str:
    return " ".join(["etcdctl", *map(shlex.quote, words)])
