# mypyc: interpreted, because it reads a document once
"""What a `breaker` document is on the request path: figures for circuits, and a fallback."""

from __future__ import annotations

from policies.decision import Forward, Respond, Subset, respond
from policies.kind import ANYWHERE, Scope
from policies.kinds.breaker.document import Breaker, Fallback, Limits, Recovery, Trip
from policies.kinds.breaker.figures import Figures
from policies.language.duration import seconds
from policies.language.names import parse_service


class Compiled:
    """What is in force."""

    __slots__ = ("_statuses", "endpoint", "fallback", "service")

    def __init__(self, document: Breaker) -> None:
        self.service: Figures | None = None
        if document.trip is not None or document.limits is not None:
            self.service = _figures(
                document.trip, document.recovery, document.limits, _retry_after_s(document.fallback)
            )
        self.endpoint: Figures | None = None
        if document.endpoint is not None:
            self.endpoint = _figures(document.endpoint.trip, document.endpoint.recovery, None, 0.0)
        self.fallback: Forward | Respond = _fallback(document.fallback)
        self._statuses = None if document.failures is None else frozenset(document.failures)

    def failure(self, status: int) -> bool:
        """Whether an answer with a status counts as a failure."""
        return status >= 500 if self._statuses is None else status in self._statuses


def compile(document: Breaker, scope: Scope = ANYWHERE) -> Compiled:
    """A checked document, ready to be asked."""
    return Compiled(document)


def _figures(trip: Trip | None, recovery: Recovery, limits: Limits | None, retry_after_s: float) -> Figures:
    limits = limits or Limits()
    figures = trip or Trip()
    return Figures(
        consecutive=figures.consecutive or 0,
        error_rate=(figures.error_percent or 0) / 100,
        slow_rate=(figures.slow_percent or 0) / 100,
        slow_s=seconds(figures.slow) if figures.slow is not None else 0.0,
        window_s=seconds(figures.window),
        min_requests=figures.min_requests,
        max_requests_in_window=figures.requests or 0,
        probes=recovery.probes,
        successes=recovery.successes,
        open_s=seconds(recovery.open),
        max_open_s=seconds(recovery.max_open),
        max_active=limits.requests or 0,
        max_pending=limits.pending or 0,
        max_connections=limits.connections or 0,
        max_retries=limits.retries or 0,
        retry_after_s=retry_after_s,
    )


def _retry_after_s(fallback: Fallback | None) -> float:
    return seconds(fallback.retry_after) if fallback is not None and fallback.retry_after is not None else 0.0


def _fallback(fallback: Fallback | None) -> Forward | Respond:
    if fallback is None or (fallback.respond is None and fallback.retry_after is not None):
        return Respond(503, (), b"")
    if fallback.respond is not None:
        return respond(fallback.respond)
    return Forward(
        service=parse_service(fallback.service) if fallback.service else None,
        subset=Subset(fallback.version) if fallback.version else None,
    )
