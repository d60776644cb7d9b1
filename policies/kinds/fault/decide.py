# mypyc: compiled
"""What a `fault` document does to a request."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from policies.decision import Respond, respond
from policies.hashing import draw
from policies.kind import ANYWHERE, Scope
from policies.kinds.fault.document import Delay, FaultPolicy, FaultRule
from policies.language.duration import moment, seconds
from policies.language.matching import Predicate, compile_match
from policies.language.user import user_of
from policies.request import RequestView

SPARED: Final = "x-shoal-no-fault"


class Injected(NamedTuple):
    """What is done to a request."""

    rule: str
    reason: str
    delay_s: float = 0.0
    abort: Respond | None = None
    reset: bool = False
    bytes_per_s: float = 0.0


class _Rule(NamedTuple):
    name: str
    rule: FaultRule
    matches: Predicate | None
    user: Callable[[RequestView], str | None] | None
    least_s: float
    most_s: float
    abort: Respond | None


class Compiled:
    """A document, ready to be asked."""

    __slots__ = ("_rules", "expires")

    def __init__(self, document: FaultPolicy) -> None:
        self.expires = moment(document.expires)
        """Unix seconds."""
        self._rules = [_compiled(rule, n) for n, rule in enumerate(document.rules)]

    def decide(self, request: RequestView, wall: float, rng: random.Random, service: str = "") -> Injected | None:
        """What is done to a request for a service at `wall` (Unix seconds); None: nothing."""
        if wall >= self.expires or request.header(SPARED) is not None:
            return None
        for rule in self._rules:
            if rule.matches is None or rule.matches(request):
                return _injected(rule, rng) if _drawn(rule, request, rng, service) else None
        return None


def _drawn(rule: _Rule, request: RequestView, rng: random.Random, service: str) -> bool:
    share = rule.rule.percent / 100
    if share >= 1:
        return True
    user = rule.user(request) if rule.user is not None else None
    return (draw(user, f"fault/{service}/{rule.name}") if user else rng.random()) < share


def _injected(rule: _Rule, rng: random.Random) -> Injected:
    delay_s = rule.least_s + rng.random() * (rule.most_s - rule.least_s)
    return Injected(
        rule.name,
        "injected on purpose by a fault policy",
        delay_s,
        rule.abort,
        rule.rule.reset,
        float(rule.rule.throttle or 0),
    )


def compile(document: FaultPolicy, scope: Scope = ANYWHERE) -> Compiled:
    """A checked document, ready to be asked."""
    return Compiled(document)


def _compiled(rule: FaultRule, number: int) -> _Rule:
    answer, delay = rule.abort, rule.delay
    least, most = (delay.least, delay.most) if isinstance(delay, Delay) else (delay or 0, delay or 0)
    return _Rule(
        rule.name or f"rules[{number}]",
        rule,
        compile_match(rule.match, {}),
        user_of(rule.sticky) if rule.sticky is not None else None,
        seconds(least),
        seconds(most),
        respond(answer) if answer is not None else None,
    )
