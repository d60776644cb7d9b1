"""`retry`: whether a failed attempt is made again, where, and after how long.

Laws
- Work is never duplicated: a request that may have reached an instance is sent again only when its method is
  idempotent (RFC 9110 section 9.2.2) or the document says so. When nothing was sent any request may go elsewhere.
- Retries are a share of the traffic, not a multiple of it: a budget (Finagle's: 20% of requests and 10 a second,
  over 10 s) is on unless the document turns it off. A dead service does not get more load for being dead.
- Tries do not multiply along a chain: whoever is nearest to the failure tries again, and those before it do not.
"""

from __future__ import annotations

import random
import re
from enum import Enum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.budget import Budget as Budget
from policies.document import Document, Fault
from policies.duration import Duration, seconds
from policies.quantile import Recent
from policies.request import Method

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
IDEMPOTENT_BYTES: Final = frozenset(method.encode() for method in IDEMPOTENT)
MAX_BODY_BYTES: Final = 64 * 1024
MAX_RETRY_AFTER_S: Final = 5.0
_QUANTILE: Final = re.compile(r"p[0-9]{2}(?:\.[0-9])?\Z")
_GATEWAY: Final = frozenset({502, 503, 504})
_SERVER_ERRORS: Final = frozenset(range(500, 600))

Condition = Literal["connect-failure", "reset", "timeout", "gateway-error", "5xx", "429"]


class Failure(Enum):
    """How an attempt failed."""

    CONNECT = "connect-failure"
    RESET = "reset"
    """The connection broke before an answer's head."""
    TIMEOUT = "timeout"
    """No answer within the time of one try."""
    STATUS = "status"
    """An answer came, with a status."""


class BudgetRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many retries there may be."""

    ratio: Annotated[float, Meta(ge=0, le=10, description="Retries for each request")] = 0.2
    min_per_second: Annotated[float, Meta(ge=0, le=100_000, description="Retries a second that are always allowed")] = (
        10
    )
    ttl: Annotated[Duration, Meta(description="For how long a request counts")] = "10s"


class Backoff(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Waiting before another attempt: a random time up to base times 2 to the number of retries, at most max."""

    base: Duration = "25ms"
    max: Duration = "250ms"


class Hedge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A second attempt beside one that takes long; the first answer wins."""

    after: Annotated[
        Duration,
        Meta(
            description="When to begin it: a time, or such as p95: longer than that share of the requests took lately"
        ),
    ] = "p95"
    least: Annotated[Duration, Meta(description="Never sooner than this")] = "1ms"

    def check(self, path: str) -> None:
        """Raises Fault."""
        if quantile(self.after) is None:
            _length(f"{path}.after", self.after, "a time such as 50ms, or a quantile from p50 to p99.9")
        _length(f"{path}.least", self.least)


class HedgePolicy(msgspec.Struct, frozen=True):
    """When a hedge begins: after `share` (0 to 1) of the latencies seen, but not before `least_s`; 0: after that."""

    share: float
    least_s: float


class RetryRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For the requests of one rule of a route, in place of the service's own policy; the budget stays the service's."""

    attempts: Annotated[int, Meta(ge=1, le=10, description="Tries in all; 1 is no retry")] = 2
    on: Annotated[tuple[Condition, ...], Meta(description="What is tried again")] = (
        "connect-failure",
        "reset",
        "gateway-error",
    )
    statuses: Annotated[tuple[Annotated[int, Meta(ge=400, le=599)], ...], Meta(description="Further statuses")] = ()
    methods: Annotated[
        tuple[Method, ...] | None,
        Meta(description="Methods that may be sent again although the request may have arrived"),
    ] = None
    hedge: Annotated[Hedge | None, Meta(description="A second attempt beside one that takes long")] = None

    def check(self, path: str) -> None:
        """Raises Fault."""
        if not self.on and not self.statuses:
            raise Fault(f"{path}.on", 'nothing is tried again; for that say {"attempts": 1}')
        if self.hedge is not None:
            self.hedge.check(f"{path}.hedge")


class Retry(Document, frozen=True, kw_only=True):
    """The document."""

    attempts: Annotated[int, Meta(ge=1, le=10, description="Tries in all; 1 is no retry")] = 2
    on: Annotated[tuple[Condition, ...], Meta(description="What is tried again")] = (
        "connect-failure",
        "reset",
        "gateway-error",
    )
    statuses: Annotated[tuple[Annotated[int, Meta(ge=400, le=599)], ...], Meta(description="Further statuses")] = ()
    methods: Annotated[
        tuple[Method, ...] | None,
        Meta(description="Methods that may be sent again although the request may have arrived"),
    ] = None
    backoff: Backoff = Backoff()
    budget: Annotated[BudgetRule | bool, Meta(description="false: no budget")] = BudgetRule()
    max_body: Annotated[int, Meta(ge=0, le=MAX_BODY_BYTES, description="Bytes of a body that are kept for a retry")] = (
        MAX_BODY_BYTES
    )
    another_endpoint: Annotated[bool, Meta(description="Not the endpoint that failed, while there is another")] = True
    hedge: Annotated[Hedge | None, Meta(description="A second attempt beside one that takes long")] = None

    def check(self) -> None:
        """Durations are ones, in order, and there is something to try again."""
        values: dict[str, float] = {}
        if not self.on and not self.statuses:
            raise Fault("$.on", 'nothing is tried again; for that say {"attempts": 1}')
        if self.budget is True:
            raise Fault("$.budget", 'true says nothing that is not so; false, or an object such as {"ratio": 0.2}')
        budget = (("$.budget.ttl", self.budget.ttl),) if isinstance(self.budget, BudgetRule) else ()
        for path, value in (("$.backoff.base", self.backoff.base), ("$.backoff.max", self.backoff.max), *budget):
            try:
                values[path] = seconds(value)
            except ValueError as error:
                raise Fault(path, str(error)) from None
            if values[path] > 60:
                raise Fault(path, f"{values[path]:g} s; at most 60 s")
        if values["$.backoff.base"] > values["$.backoff.max"]:
            raise Fault("$.backoff.base", "longer than $.backoff.max")
        if self.hedge is not None:
            self.hedge.check("$.hedge")
        if budget and values["$.budget.ttl"] < 1:
            raise Fault("$.budget.ttl", "at least 1s: a budget over less than that is none")


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
    """Statuses of which `decide` may say Again: `statuses`, and the 503 of an agent that sent nothing."""


def quantile(after: float | str) -> float | None:
    """`p95` as 0.95; None when it is none."""
    if not isinstance(after, str) or not _QUANTILE.match(after):
        return None
    share = float(after[1:]) / 100
    return share if 0.5 <= share <= 0.999 else None


def _length(path: str, value: float | str, right: str = "") -> None:
    try:
        length = seconds(value)
    except ValueError as error:
        raise Fault(path, f"{value!r} is not {right}" if right else str(error)) from None
    if not 0 < length <= 60:
        raise Fault(path, f"{length:g} s; more than nothing, and at most 60 s")


def compile(document: Retry | None) -> RetryPolicy:
    """The policy of a document, or the default one."""
    document = document or Retry()
    statuses = set(document.statuses)
    if "gateway-error" in document.on:
        statuses |= _GATEWAY
    if "5xx" in document.on:
        statuses |= _SERVER_ERRORS
    if "429" in document.on:
        statuses.add(429)
    rule = document.budget if isinstance(document.budget, BudgetRule) else BudgetRule()
    return RetryPolicy(
        attempts=document.attempts,
        failures=frozenset(failure for failure in Failure if failure.value in document.on),
        statuses=frozenset(statuses),
        methods=IDEMPOTENT if document.methods is None else frozenset(document.methods),
        base_s=seconds(document.backoff.base),
        max_s=seconds(document.backoff.max),
        ratio=rule.ratio,
        min_per_s=rule.min_per_second,
        ttl_s=seconds(rule.ttl),
        bounded=document.budget is not False,
        max_body=document.max_body,
        another_endpoint=document.another_endpoint,
        hedge=_hedge(document.hedge) if document.hedge is not None else None,
        watched=frozenset(statuses | {503}),
    )


def compile_rule(rule: RetryRule) -> RetryPolicy:
    """What a rule of a route says, in place of the service's policy."""
    return compile(
        Retry(attempts=rule.attempts, on=rule.on, statuses=rule.statuses, methods=rule.methods, hedge=rule.hedge)
    )


def _hedge(hedge: Hedge) -> HedgePolicy:
    share = quantile(hedge.after)
    return HedgePolicy(share or 0.0, seconds(hedge.least) if share else seconds(hedge.after))


class Again(msgspec.Struct, frozen=True):
    """Try again, after so long."""

    delay_s: float
    reason: str


class Enough(msgspec.Struct, frozen=True):
    """Do not."""

    reason: str
    final: bool = False
    """Whether that goes for those before us too: all the tries that there may be were made."""


def decide(
    policy: RetryPolicy,
    *,
    method: str,
    attempts: int,
    failure: Failure,
    status: int | None,
    sent: bool,
    replayable: bool,
    budget: Budget,
    now: float,
    rng: random.Random,
    retry_after_s: float | None = None,
    remaining_s: float | None = None,
    tried_deeper: bool = False,
) -> Again | Enough:
    """What becomes of an attempt that failed.

    `attempts` are those made, `sent` whether an instance may have seen any of the request, `replayable` whether its
    body can be sent again whole, `tried_deeper` whether what failed was tried again already, nearer to the failure.
    Withdraws from the budget when it says Again.
    """
    if attempts >= policy.attempts:
        return Enough(f"{attempts} of {policy.attempts} attempts made")
    if failure is Failure.STATUS:
        if status not in policy.statuses:
            return Enough(f"status {status} is not one that is tried again")
    elif sent and failure not in policy.failures:
        return Enough(f"{failure.value} is not tried again")
    elif not sent and Failure.CONNECT not in policy.failures:
        return Enough("connect-failure is not tried again")
    if sent and method not in policy.methods:
        return Enough(f"{method} may have been carried out, and is not safe to send twice")
    if sent and tried_deeper:
        return Enough("it was tried again already, nearer to the failure", final=True)
    if not replayable:
        return Enough("the body is too large to be kept for another attempt")
    delay_s = _delay(policy, attempts, sent, retry_after_s, rng)
    if remaining_s is not None and delay_s >= remaining_s:
        return Enough("the deadline comes before another attempt could")
    if not budget.try_withdraw(now):
        return Enough("the retry budget is used up", final=True)
    return Again(delay_s, f"attempt {attempts + 1} of {policy.attempts}")


def may_hedge(policy: RetryPolicy, *, method: str, attempts: int, replayable: bool, budget: Budget, now: float) -> bool:
    """Whether a second attempt may be made beside the first. Withdraws from the budget when it says so."""
    if attempts >= policy.attempts or method not in policy.methods or not replayable:
        return False
    return budget.try_withdraw(now)


def hedge_after_s(hedge: HedgePolicy, recent: Recent) -> float | None:
    """How long the first attempt is waited for; None while too little is known."""
    if not hedge.share:
        return hedge.least_s
    found = recent.quantile(hedge.share)
    return None if found is None else max(found, hedge.least_s)


def _delay(policy: RetryPolicy, attempts: int, sent: bool, retry_after_s: float | None, rng: random.Random) -> float:
    """Full jitter; the first try elsewhere after a connection that was refused need not wait."""
    if retry_after_s is not None and sent:
        return min(retry_after_s, MAX_RETRY_AFTER_S)
    if not sent and attempts == 1:
        return 0.0
    ceiling = min(policy.max_s, policy.base_s * 2.0 ** (attempts - 1))
    return rng.random() * ceiling
