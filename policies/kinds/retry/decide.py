"""`retry`: whether a failed attempt is made again, where, and after how long.

Laws
- Work is never duplicated: a request that may have reached an instance is sent again only when its method is
  idempotent (RFC 9110 section 9.2.2) or the document says so. When nothing was sent any request may go elsewhere.
- Retries are a share of the traffic, not a multiple of it: a budget (Finagle's: 20% of requests and 10 a second,
  over 10 s) is on unless the document turns it off. A dead service does not get more load for being dead.
- Tries do not multiply along a chain: whoever is nearest to the failure tries again, and those before it do not.
- What an instance says of when to come again (`Retry-After`) is about that instance. Nobody waits for it who can go
  elsewhere, nor longer than MAX_RETRY_AFTER_S, nor for an attempt that there would be no time for.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from policies.kind import ANYWHERE, Scope
from policies.kinds.retry.budget import Budget
from policies.kinds.retry.document import BudgetRule, Hedge, Retry, RetryRule, quantile
from policies.kinds.retry.policy import IDEMPOTENT, Failure, HedgePolicy, RetryPolicy
from policies.kinds.retry.quantile import Recent
from policies.language.duration import seconds

MAX_RETRY_AFTER_S: Final = 5.0
"""Who asks for longer is not waited for."""
_GATEWAY: Final = frozenset({502, 503, 504})
_SERVER_ERRORS: Final = frozenset(range(500, 600))


def compile(document: Retry | None, scope: Scope = ANYWHERE) -> RetryPolicy:
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
        watched=frozenset(statuses | {502, 503, 504}),
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
    elsewhere: bool = True
    """Not at the endpoint that failed, while there is another."""


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
    elsewhere: bool = False,
    remaining_s: float | None = None,
    tried_deeper: bool = False,
    breaker_free: bool = True,
) -> Again | Enough:
    """What becomes of an attempt that failed.

    `attempts` are those made, `sent` whether an instance may have seen any of the request, `replayable` whether its
    body can be sent again whole, `retry_after_s` what its answer asks for, `elsewhere` whether another endpoint is
    left, `remaining_s` for how long an answer is waited for, `tried_deeper` whether what failed was tried again
    already, nearer to the failure, `breaker_free` whether the breaker that counts retries lets another be under way.
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
    returns = retry_after_s is not None and sent and not elsewhere
    if returns and retry_after_s is not None and retry_after_s > MAX_RETRY_AFTER_S:
        return Enough(f"nobody else is left, and it asks for {retry_after_s:g} s; {MAX_RETRY_AFTER_S:g} s are waited")
    delay_s = _delay(policy, attempts, sent, retry_after_s, elsewhere, rng)
    if remaining_s is not None and delay_s >= remaining_s:
        return Enough("the deadline comes before another attempt could")
    if not breaker_free:
        return Enough("as many retries as the breaker allows are under way", final=True)
    if not budget.try_withdraw(now):
        return Enough("the retry budget is used up", final=True)
    another = not returns and (policy.another_endpoint or (sent and retry_after_s is not None))
    return Again(delay_s, f"attempt {attempts + 1} of {policy.attempts}", another)


def may_hedge(policy: RetryPolicy, *, method: str, attempts: int, replayable: bool, budget: Budget, now: float) -> bool:
    """Whether a second attempt may be made beside the first. Takes nothing: who makes one withdraws from the budget."""
    if attempts >= policy.attempts or method not in policy.methods or not replayable:
        return False
    return budget.is_free(now)


def hedge_after_s(hedge: HedgePolicy, recent: Recent) -> float | None:
    """How long the first attempt is waited for; None while too little is known."""
    if not hedge.share:
        return hedge.least_s
    found = recent.quantile(hedge.share)
    return None if found is None else max(found, hedge.least_s)


def _delay(
    policy: RetryPolicy, attempts: int, sent: bool, retry_after_s: float | None, elsewhere: bool, rng: random.Random
) -> float:
    """Full jitter. The first try elsewhere after a connection that was refused need not wait, nor any after an answer
    that says when that instance can be asked again."""
    said = sent and retry_after_s is not None
    if (said and elsewhere) or (not sent and attempts == 1):
        return 0.0
    delay_s = rng.random() * min(policy.max_s, policy.base_s * 2.0 ** (attempts - 1))
    return max(delay_s, retry_after_s) if said and retry_after_s is not None else delay_s
