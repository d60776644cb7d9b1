"""`retry`: which failures are tried again, as a document says it."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import Duration, positive, seconds
from policies.language.plain import Flaw, read_at
from policies.request import Method

MAX_BODY_BYTES: Final = 64 * 1024
MAX_S: Final = 60.0
"""Of anything that is waited for here."""
_QUANTILE: Final = re.compile(r"p[0-9]{2}(?:\.[0-9])?\Z")

Condition = Literal["connect-failure", "reset", "timeout", "gateway-error", "5xx", "429"]
DEFAULT_ON: Final[tuple[Condition, ...]] = ("connect-failure", "reset", "gateway-error")

# What a service's policy says, and a rule of a route in its place.
Attempts: TypeAlias = Annotated[int, Meta(ge=1, le=10, description="Tries in all; 1 is no retry")]
Conditions: TypeAlias = Annotated[tuple[Condition, ...], Meta(description="What is tried again")]
Statuses: TypeAlias = Annotated[tuple[Annotated[int, Meta(ge=400, le=599)], ...], Meta(description="Further statuses")]
Methods: TypeAlias = Annotated[
    tuple[Method, ...] | None,
    Meta(description="Methods that may be sent again although the request may have arrived"),
]


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
        """Raises Flaw."""
        if quantile(self.after) is None:
            positive(f"{path}.after", read_at(f"{path}.after", _time, self.after), MAX_S)
        positive(f"{path}.least", self.least, MAX_S)


class RetryRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For the requests of one rule of a route, in place of the service's own policy; the budget stays the service's."""

    attempts: Attempts = 2
    on: Conditions = DEFAULT_ON
    statuses: Statuses = ()
    methods: Methods = None
    hedge: Annotated[Hedge | None, Meta(description="A second attempt beside one that takes long")] = None

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if not self.on and not self.statuses:
            raise Flaw(f"{path}.on", 'nothing is tried again; for that say {"attempts": 1}')
        if self.hedge is not None:
            self.hedge.check(f"{path}.hedge")


class Retry(Document, frozen=True, kw_only=True):
    """The document."""

    attempts: Attempts = 2
    on: Conditions = DEFAULT_ON
    statuses: Statuses = ()
    methods: Methods = None
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
            raise Flaw("$.on", 'nothing is tried again; for that say {"attempts": 1}')
        if self.budget is True:
            raise Flaw("$.budget", 'true says nothing that is not so; false, or an object such as {"ratio": 0.2}')
        budget = (("$.budget.ttl", self.budget.ttl),) if isinstance(self.budget, BudgetRule) else ()
        for path, value in (("$.backoff.base", self.backoff.base), ("$.backoff.max", self.backoff.max), *budget):
            values[path] = read_at(path, seconds, value)
            if values[path] > MAX_S:
                raise Flaw(path, f"{values[path]:g} s; at most {MAX_S:g} s")
        if values["$.backoff.base"] > values["$.backoff.max"]:
            raise Flaw("$.backoff.base", "longer than $.backoff.max")
        if self.hedge is not None:
            self.hedge.check("$.hedge")
        if budget and values["$.budget.ttl"] < 1:
            raise Flaw("$.budget.ttl", "at least 1s: a budget over less than that is none")


def quantile(after: float | str) -> float | None:
    """`p95` as 0.95; None when it is none."""
    if not isinstance(after, str) or not _QUANTILE.match(after):
        return None
    share = float(after[1:]) / 100
    return share if 0.5 <= share <= 0.999 else None


def _time(after: float | str) -> float:
    try:
        return seconds(after)
    except ValueError:
        raise ValueError(f"{after!r} is not a time such as 50ms, or a quantile from p50 to p99.9") from None
