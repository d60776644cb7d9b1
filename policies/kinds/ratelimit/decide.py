# mypyc: interpreted, because it reads a document once
"""What a `ratelimit` document is for the buckets."""

from __future__ import annotations

from typing import NamedTuple

from policies.kind import ANYWHERE, Scope
from policies.kinds.ratelimit.buckets import Compiled
from policies.kinds.ratelimit.document import KeyRule, LimitRule, RateLimit, burst_of, parse_rate
from policies.kinds.ratelimit.limit import Key, Limit
from policies.language.matching import compile_match


class Sides(NamedTuple):
    """A document, ready to be asked."""

    caller: Compiled
    """By the agent of whoever calls."""
    service: Compiled
    """By the agent beside the instance."""

    @property
    def limits(self) -> list[Limit]:
        """All of them."""
        return self.caller.limits + self.service.limits


def compile(document: RateLimit, scope: Scope = ANYWHERE) -> Sides:
    """A checked document, ready to be asked."""
    caller, service = ([rule for rule in document.limits if rule.side == side] for side in ("caller", "service"))
    return Sides(Compiled([_limit(rule) for rule in caller]), Compiled([_limit(rule) for rule in service]))


def _limit(rule: LimitRule) -> Limit:
    found = parse_rate(rule.rate)
    said = rule.rate.strip() if isinstance(rule.rate, str) else f"{rule.rate:g}/s"
    whose = "of all agents together" if rule.scope == "mesh" else "of this agent"
    if rule.side == "service":
        whose += ", beside the service"
    key = rule.key
    return Limit(
        rule.name,
        found.per_s,
        burst_of(rule, found.per_s),
        quota=found.quota,
        window_s=found.window_s,
        key=None if key is None else _key(key),
        matches=compile_match(rule.match, {}),
        max_keys=rule.max_keys,
        status=rule.status,
        body=rule.body,
        reason=f"the limit {rule.name} {whose}, {said}{' for each key' if key is not None else ''}, is used up",
        shared=rule.scope == "mesh",
    )


def _key(rule: KeyRule) -> Key:
    return Key(
        rule.caller, rule.claim, rule.header, rule.cookie, rule.query, rule.path, rule.address, rule.trusted_hops
    )
