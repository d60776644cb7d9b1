"""What identity needs of the rest of an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol, TypeVar

from agent.control.identity.way import Way
from agent.frames import Trust
from registry.keys import Keys
from registry.store import Store

T = TypeVar("T")
BELIEVED: Final = "believed.json"
"""Of the folder: there is one where a bundle was believed before."""
Tell = Callable[[str, dict[str, str], dict[str, Any]], None]
"""An event: its type, the parts of its subject, its data."""
Ask = Callable[[str, str, bytes, float], Awaitable[tuple[int, bytes]]]
"""A question to another host's agent: host, path, body, seconds; its status and body. Raises NoAnswer."""
Reply = Callable[[int, bytes], None]
Note = Callable[[str, Mapping[str, Any], Mapping[str, str] | None], None]
"""A record of the audit log: what happened, what is told of it, and by what persons are known."""


def unnoted(event: str, data: Mapping[str, Any], personal: Mapping[str, str] | None) -> None:
    """Nothing is recorded."""


class OnDisk(Protocol):
    """Where what waits for the disk is done: in a thread."""

    def __call__(self, work: Callable[..., T], *about: object) -> Awaitable[T]:
        """What it comes to."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Of one agent."""

    store: Store
    keys: Keys
    host: str
    folder: Path
    lease: Callable[[], int]
    services: Callable[[], Collection[str]]
    """Those that have instances on this host."""
    alive: Callable[[], Collection[str]]
    """Hosts whose agents live."""
    strict: Callable[[], bool]
    """Whether the whole mesh is to speak TLS and nothing else."""
    prove: Callable[[Trust], None]
    """Hands workers what is shown and believed."""
    proves: Callable[[], Awaitable[bool]]
    """Whether all of them have taken it."""
    tell: Tell
    clock: Callable[[], float]
    """Seconds of the epoch."""
    chance: Random
    serials: Callable[[int], bytes]
    """So many random bytes that nobody can foresee."""
    disk: OnDisk
    ask: Ask
    note: Note = unnoted
    """Records something."""
    workload_socket: str = ""
    """Where SPIFFE's Workload API is served, which certificates and bundles come from; empty: issuers of the mesh."""
    inherited: bytes = b""
    """What `AgentIdentity.handed_over` said before this agent was executed anew."""


class Identified(Protocol):
    """Who can say how to ask other agents."""

    def way(self, host: str) -> Way | None:
        """As `Proof.way`."""
        ...


class Proof:
    """What workers are shown and told to believe, as it is now; for those that start, too."""

    def __init__(self) -> None:
        self.trust = Trust()
        self.identity: Identified | None = None

    def frame(self) -> Trust:
        """The frame for a worker."""
        return self.trust

    def way(self, host: str) -> Way | None:
        """How to ask another host's agent; None: nothing is proven here."""
        return self.identity.way(host) if self.identity is not None else None
