"""Users and roles of etcd: what stands, and what is to. For who has the rights to change them."""

from __future__ import annotations

from typing import Any, Final

from registry.etcd.store import EtcdStore
from registry.etcd.stubs import load
from registry.etcd.wire import bytes_of
from registry.rights import Grant, May, Role
from registry.store import Refused

_rpc, _ = load()
ROOT: Final = "root"
_UNKNOWN: Final = "user name not found"
_READ: Final = 0
_READWRITE: Final = 2


class Users(EtcdStore):
    """A store that may be asked for them, too."""

    async def roles(self, prefix: str) -> dict[str, Role]:
        """Those whose name begins so."""
        names = [str(name) for name in (await self._auth("RoleList", _rpc.AuthRoleListRequest())).roles]
        found: dict[str, Role] = {}
        for name in names:
            if name.startswith(prefix):
                told = await self._auth("RoleGet", _rpc.AuthRoleGetRequest(role=name))
                found[name] = Role(name, frozenset(map(_grant, told.perm)))
        return found

    async def users(self) -> dict[str, tuple[str, ...]]:
        """The roles of every user."""
        names = [str(name) for name in (await self._auth("UserList", _rpc.AuthUserListRequest())).users]
        return {
            name: tuple(map(str, (await self._auth("UserGet", _rpc.AuthUserGetRequest(name=name))).roles))
            for name in names
        }

    async def add_role(self, role: str) -> None:
        """A role without rights."""
        await self._auth("RoleAdd", _rpc.AuthRoleAddRequest(name=role))

    async def permit(self, role: str, grant: Grant) -> None:
        """Give a role a right."""
        kind = _READ if grant.may == "read" else _READWRITE
        request = _rpc.AuthRoleGrantPermissionRequest(name=role)
        request.perm.permType, request.perm.key, request.perm.range_end = kind, bytes_of(grant.key), bytes_of(grant.end)
        await self._auth("RoleGrantPermission", request)

    async def forbid(self, role: str, grant: Grant) -> None:
        """Take a right from a role."""
        request = _rpc.AuthRoleRevokePermissionRequest(role=role, key=grant.key, range_end=grant.end)
        await self._auth("RoleRevokePermission", request)

    async def add_user(self, user: str, password: str) -> None:
        """Empty password: known by a certificate alone."""
        options = {"no_password": not password}
        await self._auth("UserAdd", _rpc.AuthUserAddRequest(name=user, password=password, options=options))

    async def give(self, user: str, role: str) -> None:
        """Give a user a role."""
        await self._auth("UserGrantRole", _rpc.AuthUserGrantRoleRequest(user=user, role=role))

    async def _auth(self, method: str, request: Any) -> Any:
        return await self._call("Auth", method, request, self._settings.timeout_s)


def _grant(permission: Any) -> Grant:
    """A right to write alone is none of ours, and counts as that to read: it lacks what is wanted."""
    may: May = "readwrite" if permission.permType == _READWRITE else "read"
    return Grant(permission.key.decode(errors="replace"), permission.range_end.decode(errors="replace"), may)


async def remove_user(store: EtcdStore, name: str) -> bool:
    """Take a user away, with which his tokens are void at once; whether there was one. Raises Refused for etcd's root,
    and for who may not, and StoreError."""
    if name == ROOT:
        raise Refused("etcd's own root is no host's user")
    try:
        await store._repeatable("Auth", "UserDelete", _rpc.AuthUserDeleteRequest(name=name))
    except Refused as refused:
        if _UNKNOWN in str(refused):
            return False
        raise
    return True
