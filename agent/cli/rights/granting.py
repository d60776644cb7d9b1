"""A user of etcd for an agent, an operator or a reader: what has to be done for it, and done.

Law: no agent does any of it. It is done with the rights of whoever asks: etcd's root, or a user that has its role.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.cli.failure import Exit, Failure
from agent.cli.rights.plan import PASSWORD, AddRole, AddUser, Forbid, Give, Permit, Step, for_roles, for_user
from registry.keys import Keys
from registry.rights import Kind, Rights, Role
from registry.store import Refused

if TYPE_CHECKING:
    from registry.etcd.users import Users

ROOT: Final = "root"
PASSWORD_BYTES: Final = 24
Said = Callable[[str], None]


class Standing(msgspec.Struct):
    """What etcd has of a mesh's roles, and of users."""

    roles: dict[str, Role] = msgspec.field(default_factory=dict)
    users: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

    def kept_by_issuers(self, rights: Rights) -> bool:
        """Whether somebody issues: then agents write no last good states."""
        issuer = rights.name("issuer")
        return any(issuer in roles for roles in self.users.values())


async def standing_of(users: Users, keys: Keys) -> Standing:
    """As it stands. Raises StoreError."""
    return Standing(await users.roles(Rights(keys).prefix), await users.users())


async def carry_out(users: Users, steps: Iterable[Step], said: Said) -> None:
    """Each step, told once it is done. Raises StoreError."""
    for step in steps:
        match step:
            case AddRole(role):
                await users.add_role(role)
            case Permit(role, right):
                await users.permit(role, right)
            case Forbid(role, right):
                await users.forbid(role, right)
            case AddUser(user, password):
                await users.add_user(user, password)
            case Give(user, role):
                await users.give(user, role)
        said(f"done: {step}")


async def steps_for(
    users: Users, keys: Keys, user: str, kind: Kind, host: str, password: str, standing: Standing | None = None
) -> list[Step]:
    """So that a user is there, and may do what its kind does and no more. Raises Failure and StoreError."""
    standing = standing or await standing_of(users, keys)
    others = [role for role in standing.users.get(user, ()) if _is_of_another_mesh(role, keys)]
    if others:
        said = ", ".join(others)
        raise Failure(f"{user} has rights in another mesh ({said}): a user is of one mesh; choose another name")
    kept = kind == "issuer" or standing.kept_by_issuers(Rights(keys))
    roles = roles_of(Rights(keys, kept_by_issuers=kept), kind, host)
    steps = list(for_roles(roles, standing.roles))
    return steps + list(for_user(user, password, [role.name for role in roles], standing.users))


async def let_write(users: Users, keys: Keys, host: str, password_file: str, said: Said) -> str:
    """A new host's user and role, where etcd asks who one is. Returns what somebody else has to see to; empty: nothing.

    `password_file`: where its password is, or will be; empty: it is known by its certificate. Raises StoreError.
    """
    try:
        standing = await standing_of(users, keys)
        if ROOT not in standing.users:
            return ""  # without it etcd cannot be told to ask
        if host in standing.users:
            password_file = ""  # it has one already, or is known by a certificate
        steps = await steps_for(users, keys, host, "agent", host, "", standing)
        if not steps:
            return ""
        if password_file:
            password = password_in(password_file, make=True)
            steps = [step._replace(password=password) if isinstance(step, AddUser) else step for step in steps]
        await carry_out(users, steps, said)
    except (Refused, Failure) as refused:
        how = f" --password-file {password_file}" if password_file else ""
        return f"its user in etcd is not made ({refused}): who may, runs `shoal mesh grant {host}{how} --apply`"
    if password_file:
        said(f"{password_file} has its password in etcd: move it to {host}, where [etcd] names it")
    return ""


def roles_of(rights: Rights, kind: Kind, host: str) -> tuple[Role, ...]:
    """The roles of a user. Raises Failure."""
    try:
        return rights.of(kind, host)
    except ValueError as error:
        raise Failure(f"{error}; name it with --host", Exit.USAGE) from None


def password_in(file: str, *, make: bool) -> str:
    """What a file holds; made up, and put there for its owner alone, where there is none. Raises Failure."""
    path = Path(file)
    try:
        if make and not path.exists():
            path.touch(0o600, exist_ok=False)
            path.write_text(secrets.token_urlsafe(PASSWORD_BYTES) + "\n")
        return path.read_text(encoding="utf-8").strip() if path.exists() else PASSWORD
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"--password-file {file}: {error}", Exit.USAGE) from None


def _is_of_another_mesh(role: str, keys: Keys) -> bool:
    return role.startswith("shoal:") and not role.startswith(Rights(keys).prefix)
