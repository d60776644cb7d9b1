"""`breaker`: stop sending to a service, or to one of its endpoints, that struggles; and what callers get meanwhile."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.language.answer import DirectResponse, check_answer
from policies.language.document import Document
from policies.language.duration import Duration, bounded
from policies.language.names import parse_pattern, parse_service
from policies.language.plain import Flaw, below, read_at

Share = Annotated[float, Meta(gt=0, le=100)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
DEFAULT_WINDOW: Final = "10s"
DEFAULT_MIN_REQUESTS: Final = 20


class Trip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What opens it; any of these suffices."""

    consecutive: Annotated[Count | None, Meta(description="Failures in a row")] = None
    error_percent: Annotated[Share | None, Meta(description="Failures among the requests of the window")] = None
    slow_percent: Annotated[Share | None, Meta(description="Slow ones among the requests of the window")] = None
    slow: Annotated[Duration | None, Meta(description="What takes longer is slow")] = None
    requests: Annotated[Count | None, Meta(description="Requests in the window, good or bad")] = None
    window: Duration = DEFAULT_WINDOW
    min_requests: Annotated[Count, Meta(description="Fewer in the window say nothing about a percentage")] = (
        DEFAULT_MIN_REQUESTS
    )

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if not any((self.consecutive, self.error_percent, self.slow_percent, self.requests)):
            raise Flaw(path, "nothing opens it; one or more of consecutive, error_percent, slow_percent and requests")
        if (self.slow is None) != (self.slow_percent is None):
            missing = "slow" if self.slow is None else "slow_percent"
            raise Flaw(below(path, missing), "missing: slow says what is slow, and slow_percent how much of it opens")
        bounded(below(path, "window"), self.window, 1, 3600)
        if self.slow is not None:
            bounded(below(path, "slow"), self.slow, 0.001, 3600)
        share = self.error_percent or self.slow_percent
        if not share and self.min_requests != DEFAULT_MIN_REQUESTS:
            raise Flaw(below(path, "min_requests"), "does nothing without error_percent or slow_percent")
        if not share and not self.requests and self.window != DEFAULT_WINDOW:
            raise Flaw(below(path, "window"), "does nothing without error_percent, slow_percent or requests")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be under way from one agent; beyond it requests are refused, and nothing opens."""

    requests: Annotated[Count | None, Meta(description="In flight")] = None
    pending: Annotated[Count | None, Meta(description="Waiting for a connection, being made or to be free")] = None
    connections: Annotated[Count | None, Meta(description="Connections; who finds none free is pending")] = None
    retries: Annotated[Count | None, Meta(description="Retries in flight")] = None

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if not any((self.requests, self.pending, self.connections, self.retries)):
            raise Flaw(path, "limits nothing; one or more of requests, pending, connections and retries")


class Recovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How it closes again."""

    open: Annotated[
        Duration, Meta(description="For how long it is open the first time; then twice as long, and so on")
    ] = "5s"
    max_open: Annotated[Duration, Meta(description="And never longer than this")] = "1m"
    probes: Annotated[int, Meta(ge=1, le=1000, description="Requests at a time that find out")] = 1
    successes: Annotated[int, Meta(ge=1, le=1000, description="Good ones in a row that close it")] = 3

    def check(self, path: str) -> None:
        """Raises Flaw."""
        first = bounded(below(path, "open"), self.open, 0.1, 3600)
        if first > bounded(below(path, "max_open"), self.max_open, 0.1, 3600):
            raise Flaw(below(path, "open"), "longer than max_open")


class Each(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A breaker for each endpoint: while it is open the others take its requests."""

    trip: Trip
    recovery: Recovery = Recovery()


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What callers get instead: another service or version, or an answer."""

    service: str = ""
    version: Annotated[str, Meta(max_length=128)] = ""
    respond: DirectResponse | None = None
    retry_after: Annotated[
        Duration | None, Meta(description="When callers shall come back; default: when it is no longer open")
    ] = None

    def check(self, path: str) -> None:
        """Raises Flaw."""
        takes_over = bool(self.service or self.version)
        if takes_over == (self.respond is not None or self.retry_after is not None):
            raise Flaw(path, "either a service or version that takes over, or an answer: respond, retry_after or both")
        if self.service:
            read_at(below(path, "service"), parse_service, self.service)
        if self.retry_after is not None:
            bounded(below(path, "retry_after"), self.retry_after, 1, 3600)
        if self.respond is not None:
            check_answer(self.respond, below(path, "respond"))
            self._check_retry_after(self.respond, path)

    def _check_retry_after(self, respond: DirectResponse, path: str) -> None:
        """Said once, and only where it is sent: the proxy adds it to an answer of 5xx."""
        if respond.status < 500:
            if self.retry_after is not None:
                raise Flaw(
                    below(path, "retry_after"), f"does nothing with the status {respond.status}; with 500 to 599"
                )
            return
        for name in respond.headers:
            if name.lower() == "retry-after":
                raise Flaw(below(path, "respond", "headers", name), "added by the proxy; say fallback.retry_after")


class Breaker(Document, frozen=True, kw_only=True):
    """The document."""

    trip: Trip | None = None
    limits: Limits | None = None
    recovery: Recovery = Recovery()
    endpoint: Annotated[Each | None, Meta(description="The same for each endpoint by itself")] = None
    failures: Annotated[
        tuple[Annotated[int, Meta(ge=400, le=599)], ...] | None,
        Meta(description="Statuses that count as failures; default all of 5xx"),
    ] = None
    fallback: Annotated[Fallback | None, Meta(description="Default: 503 with Retry-After")] = None

    def check(self) -> None:
        """Everything the types let pass."""
        if self.trip is None and self.limits is None and self.endpoint is None:
            raise Flaw("$", "nothing to break; one or more of trip, limits and endpoint")
        if self.trip is not None:
            self.trip.check("$.trip")
        elif self.recovery != Recovery():
            raise Flaw("$.recovery", "does nothing without $.trip")
        if self.failures is not None and self.trip is None and self.endpoint is None:
            raise Flaw("$.failures", "does nothing without $.trip or $.endpoint")
        if self.limits is not None:
            self.limits.check("$.limits")
        self.recovery.check("$.recovery")
        if self.endpoint is not None:
            self.endpoint.trip.check("$.endpoint.trip")
            self.endpoint.recovery.check("$.endpoint.recovery")
        if self.failures is not None and not self.failures:
            raise Flaw("$.failures", "an empty list: nothing would count as a failure")
        if self.fallback is not None:
            if self.trip is None and self.limits is None:
                raise Flaw(
                    "$.fallback", "does nothing without $.trip or $.limits: other endpoints take over by themselves"
                )
            self.fallback.check("$.fallback")
            if self._is_itself(self.fallback):
                raise Flaw("$.fallback.service", "the service itself, whose breaker is open")

    def _is_itself(self, fallback: Fallback) -> bool:
        """Whether the fallback leads back, where a file says whose policy it is."""
        if not fallback.service or not self.service or fallback.version:
            return False
        return parse_service(fallback.service) == parse_pattern(self.service)
