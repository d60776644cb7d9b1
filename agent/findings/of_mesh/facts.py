"""What checks are given: etcd's content at one revision, and what etcd, this host and its agent say of themselves."""

from __future__ import annotations

from typing import Any

import msgspec

from registry.census import Census, OtherMesh
from registry.etcd.members import Member


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known. What was not asked for is empty, and its checks find nothing."""

    census: Census
    mesh: str = "default"
    now: float = 0.0
    """Unix time of this host (s); 0: not asked for."""
    members: tuple[Member, ...] = ()
    authenticated: bool | None = None
    """Whether etcd asks who we are; None: not known."""
    strangers: dict[str, str] = {}
    """Keys of this mesh that are none of Shoal's, and why."""
    meshes: dict[str, OtherMesh] = {}
    """The others in this etcd, by name."""
    not_seen: str = ""
    """Why keys outside of this mesh could not be looked at; empty: they were."""
    local: dict[str, Any] | None = None
    """/state of the agent on this host; None: none answers."""
    local_error: str = ""
    """Why it does not, where one is meant to be here."""
    suspects: frozenset[tuple[str, str]] = frozenset()
    """Instances, by service and id, that stand in etcd no more and that agents keep."""
    place: str = ""
    """Where that agent was asked."""
    guard: bool | None = None
    """Whether the rules of `shoal guard` stand on this host; None: not known."""
