"""What is in force of retries and hedges, and how a try can fail."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
IDEMPOTENT_BYTES: Final = frozenset(method.encode() for method in IDEMPOTENT)


class Failure(Enum):
    """How an attempt failed."""

    CONNECT = "connect-failure"
    RESET = "reset"
    """The connection broke before an answer's head."""
    TIMEOUT = "timeout"
    """No answer within the time of one try."""
    STATUS = "status"
    """An answer came, with a status."""


class HedgePolicy(msgspec.Struct, frozen=True):
    """When a hedge begins: after `share` (0 to 1) of the latencies seen, but not before `least_s`; 0: after that."""

    share: float
    least_s: float


class RetryPolicy(msgspec.Struct, frozen=True):
    """What is in force."""

    attempts: int
    failures: frozenset[Failure]
    statuses: frozenset[int]
    methods: frozenset[str]
    base_s: float
    max_s: float
    ratio: float
    min_per_s: float
    ttl_s: float
    bounded: bool
    max_body: int
    another_endpoint: bool
    hedge: HedgePolicy | None
    watched: frozenset[int]
    """Statuses of which `decide` may say Again: `statuses`, and those of an agent that has no answer (502 to 504)."""
