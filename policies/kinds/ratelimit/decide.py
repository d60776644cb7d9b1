# mypyc: interpreted, because it reads a document once
"""What a `ratelimit` document is for the buckets."""

from __future__ import annotations

from policies.kind import ANYWHERE, Scope
from policies.kinds.ratelimit.buckets import Compiled, Key, Limit
from policies.kinds.ratelimit.document import LimitRule, RateLimit, parse_rate
from policies.language.matching import compile_match


def compile(document: RateLimit, scope: Scope = ANYWHERE) -> Compiled:
    """A checked document, ready to be asked."""
    return Compiled([_limit(rule) for rule in document.limits])


def _limit(rule: LimitRule) -> Limit:
    found = parse_rate(rule.rate)
    said = rule.rate.strip() if isinstance(rule.rate, str) else f"{rule.rate:g}/s"
    whose = "of all agents together" if rule.scope == "mesh" else "of this agent"
    key = rule.key
    return Limit(
        rule.name,
        found.per_s,
        float(rule.burst) if rule.burst is not None else max(1.0, found.per_s),
        quota=found.quota,
        window_s=found.window_s,
        key=Key(key.caller, key.claim, key.header, key.cookie, key.query, key.path) if key is not None else None,
        matches=compile_match(rule.match, {}),
        max_keys=rule.max_keys,
        status=rule.status,
        body=rule.body,
        reason=f"the limit {rule.name} {whose}, {said}{' for each key' if key is not None else ''}, is used up",
        shared=rule.scope == "mesh",
    )
