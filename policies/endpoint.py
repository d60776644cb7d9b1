# mypyc: compiled
"""What a balancer chooses from: an endpoint, and the live figures that outlive any table.

An Endpoint is made anew with each plan and never changes; its Load lives beside the table, keyed by service and
endpoint id, so that neither a policy edit nor a flapping neighbour resets what was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.kinds.breaker.circuit import Circuit
    from policies.kinds.outlier.ejector import Record


class Judgement:
    """What breakers and ejectors have learnt of an endpoint."""

    __slots__ = ("circuit", "record")

    def __init__(self) -> None:
        self.circuit: Circuit | None = None
        """Its breaker, where a policy gives it one."""
        self.record: Record | None = None
        """What its ejector has seen of it, where a policy asks for one."""


class Load(Judgement):
    """Live figures of one endpoint in one worker. Times are seconds on the worker's monotonic clock."""

    __slots__ = (
        "active",
        "copies_failed",
        "copies_from",
        "ewma_at",
        "ewma_s",
        "failures",
        "healthy_since",
        "new",
        "penalty",
        "penalty_at",
        "refused_until",
        "requests",
        "successes",
        "took_s",
        "watched",
    )

    def __init__(self, healthy_since: float = float("-inf")) -> None:
        super().__init__()
        self.active = 0
        """Requests in flight from this worker."""
        self.ewma_s = 0.0
        """Peak-sensitive moving average of the round trip, in which a failure counts as slow; 0.0 until the first."""
        self.ewma_at = 0.0
        self.healthy_since = healthy_since
        """When this worker saw it turn healthy; -inf for one that was there from the start (no slow start)."""
        self.new = False
        """It came while this worker looked, and has not been healthy yet."""
        self.penalty = 0.0
        """What it counts as having in flight beyond that (`balance.penalty`), at `penalty_at`; it fades."""
        self.penalty_at = 0.0
        self.refused_until = 0.0
        """Until when it is passed over: it refused a connection a moment ago, or was ejected."""
        self.watched: Judgement | None = None
        """By policies that are only watched."""
        self.copies_failed = 0
        """Copies of requests that came to nothing, in a row."""
        self.copies_from = 0.0
        """Until then it gets none."""
        self.requests = 0
        self.successes = 0
        self.failures = 0
        self.took_s = 0.0
        """Of both, from the request's end to the answer's head, or to what failed."""


class Endpoint:
    """One instance as a balancer sees it. Immutable but for its Load."""

    __slots__ = (
        "address",
        "agent",
        "dial",
        "draining",
        "expected",
        "healthy",
        "id",
        "load",
        "metadata",
        "port",
        "remote",
        "secured_until",
        "service",
        "suspect",
        "version",
        "via",
        "weight",
        "zone",
    )

    def __init__(
        self,
        service: str,
        id: str,
        address: str,
        port: int,
        *,
        version: str = "",
        zone: str = "",
        weight: float = 100,
        metadata: Mapping[str, str] | None = None,
        healthy: bool = True,
        draining: bool = False,
        suspect: bool = False,
        agent: str = "",
        dial: tuple[str, int] | None = None,
        via: bool = False,
        secured_until: float = 0.0,
        expected: str = "",
        remote: str = "",
        load: Load | None = None,
    ) -> None:
        self.service = service
        self.id = id
        self.address = address
        self.port = port
        self.version = version
        self.zone = zone
        self.weight = weight
        self.metadata: Mapping[str, str] = metadata or {}
        self.healthy = healthy
        self.draining = draining
        """On its way out: takes no new request while any other endpoint can."""
        self.suspect = suspect
        """Its record vanished in a mass deletion that is not believed; used only when nothing else is left."""
        self.agent = agent
        """Host of the owning agent; empty for one put by hand."""
        self.dial = dial or (address, port)
        """Where to connect: the owning agent's inbound listener, or the instance itself."""
        self.via = via
        """Whether ``dial`` is an agent's inbound listener."""
        self.secured_until = secured_until
        """Until when that agent says that it can prove to be the service, in seconds of the epoch; 0: it cannot."""
        self.expected = expected
        """Who has to be proven there (a SPIFFE id), where it is a gateway of another trust domain; empty: it is none,
        and its service's name says it."""
        self.remote = remote
        """What the service is called there, where it is a gateway."""
        self.load = load or Load()

    def __repr__(self) -> str:
        return f"<{self.service}/{self.id} {self.address}:{self.port}{'' if self.healthy else ' unhealthy'}>"
