"""Users of etcd: what an operator's command does with them, by the operator's rights."""

from __future__ import annotations

from typing import Final

from registry.etcd.store import EtcdStore
from registry.etcd.stubs import load
from registry.store import Refused

_rpc, _ = load()
ROOT: Final = "root"
_UNKNOWN: Final = "user name not found"


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
