"""Gathers the facts that checks are given: from etcd, from the agent on this host, and from the host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli.census import take
from agent.cli.etcd_client import ask
from agent.cli.failure import Failure
from agent.cli.findings.facts import Facts, OtherMesh
from agent.cli.members import members
from registry.keys import ROOT, Keys, Room, Unknown
from registry.store import Refused, prefix_end

if TYPE_CHECKING:
    from agent.cli.options import Options
    from registry.store import Store

_LISTENS: Final = "0A"


def facts_of(options: Options) -> Facts:
    """All there are. Raises Failure when etcd cannot be asked."""
    return ask(options, lambda store: _facts(store, options))


async def _facts(store: Store, options: Options) -> Facts:
    census = await take(store, options.mesh)
    strangers, meshes, not_seen = await _around(store, options.mesh)
    return Facts(
        census=census,
        mesh=options.mesh,
        now=time.time(),
        members=await members(options, more=True),
        authenticated=getattr(store, "authenticated", None),
        strangers=strangers,
        meshes=meshes,
        not_seen=not_seen,
        local=local_agent(options),
        place=options.admin.place,
        wide=_wide_ports(),
    )


async def _around(store: Store, mesh: str) -> tuple[dict[str, str], dict[str, OtherMesh], str]:
    """Keys of this mesh that are none, the other meshes, and why they could not be looked at."""
    keys = Keys(mesh)
    try:
        found = [item.key for item in (await store.range(f"{ROOT}/", prefix_end(f"{ROOT}/"), keys_only=True)).items]
        bare = [item.key for item in (await store.range("shoal/", prefix_end("shoal/"), keys_only=True)).items]
    except Refused as error:
        return {}, {}, str(error)
    strangers = dict.fromkeys(bare, "keys begin with a slash: /shoal/<mesh>/…")
    meshes: dict[str, OtherMesh] = {}
    for key in found:
        name, _, rest = key[len(ROOT) + 1 :].partition("/")
        if name != mesh:
            known = meshes.get(name, OtherMesh())
            room = rest.partition("/")[0]
            meshes[name] = OtherMesh(
                agents=known.agents + (room == Room.AGENTS.value),
                policies=known.policies + (room == Room.POLICIES.value),
            )
        elif isinstance(parsed := keys.parse(key), Unknown) and parsed.policy is None:
            strangers[key] = parsed.reason
    return strangers, meshes, ""


def local_agent(options: Options) -> dict[str, Any] | None:
    """What the agent on this host says of itself; None when none answers."""
    try:
        return options.admin.state()
    except Failure:
        return None


def _wide_ports() -> frozenset[int]:
    """Where something here listens on every address (proc(5), /proc/net/tcp)."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            host, _, port = words[1].partition(":")
            if words[3] == _LISTENS and not host.strip("0"):
                found.add(int(port, 16))
    return frozenset(found)
