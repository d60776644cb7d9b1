"""The proxies that are compared: ours first. Adding one means one module with a PEER, and one entry here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scripts.benchmark import envoy, haproxy, nginx, shoal
from scripts.benchmark.peer import Peer
from scripts.benchmark.processes import Failed

PEERS: Final = (shoal.PEER, envoy.PEER, haproxy.PEER, nginx.PEER)


def choose(names: Sequence[str]) -> list[Peer]:
    """The peers of these names, in the order of PEERS; all when none is named. Raises Failed for an unknown name."""
    known = [peer.name for peer in PEERS]
    if unknown := set(names) - set(known):
        raise Failed(f"{', '.join(sorted(unknown))}: no such peer; there are {', '.join(known)}")
    return [peer for peer in PEERS if not names or peer.name in names]
