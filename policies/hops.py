"""What is in force along a chain of services, made of their documents: the `Hop`s that `policies.chain` judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from policies.chain import Hop
from policies.kinds.breaker.document import Breaker
from policies.kinds.retry import decide as retry
from policies.kinds.retry.document import Retry
from policies.kinds.route.document import Route
from policies.kinds.shed.document import Shed
from policies.kinds.timeout import decide as timeout
from policies.kinds.timeout.document import Timeout
from policies.language.duration import seconds
from policies.language.names import parse_service

KINDS: Final[tuple[tuple[str, type], ...]] = (
    ("timeout", Timeout),
    ("retry", Retry),
    ("breaker", Breaker),
    ("shed", Shed),
    ("route", Route),
)
"""What is asked about a service."""
Find: TypeAlias = Callable[[str, str], tuple[str, Any]]
"""Kind and service to the pattern of the most specific document, and that; what is none of its kind counts as none."""


def default_hop() -> Hop:
    """What is in force where no policy is."""
    return Hop(timeout.compile(None), retry.compile(None))


def hops_of(names: Iterable[str], find: Find) -> dict[str, Hop]:
    """By service: of these, and of those that their fallbacks and ways out lead to."""
    left = set(names)
    hops: dict[str, Hop] = {}
    while fresh := left - hops.keys():
        for name in fresh:
            hops[name] = _hop(name, find)
        left |= {hop.fallback for hop in hops.values() if hop.fallback}
        left |= {name for hop in hops.values() for name in hop.ways_out}
    return hops


def services_of(calls: Mapping[str, frozenset[str]]) -> set[str]:
    """Everybody who calls or is called."""
    return {*calls, *(service for services in calls.values() for service in services)}


def _hop(service: str, find: Find) -> Hop:
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for kind, document in KINDS:
        pattern, parsed = find(kind, service)
        if isinstance(parsed, document):
            found[kind] = parsed
            sources[kind] = f"{kind}/{pattern}"
    rule_s = _longest_rule_s(found.get("route"))
    if not rule_s:
        sources.pop("route", None)
    breaker = found.get("breaker")
    fallback = breaker.fallback.service if breaker is not None and breaker.fallback is not None else ""
    shed = found.get("shed")
    ways_out = tuple(parse_service(way.service) for way in shed.instead if way.service) if shed is not None else ()
    return Hop(
        timeout.compile(found.get("timeout")),
        retry.compile(found.get("retry")),
        breaker is not None,
        fallback,
        ways_out,
        sources,
        rule_s,
        shed is not None and shed.backpressure,
    )


def _longest_rule_s(route: Route | None) -> float:
    rules = route.rules if route is not None else ()
    times = [rule.timeout.request for rule in rules if rule.timeout is not None and rule.timeout.request is not None]
    return max(map(seconds, times), default=0.0)
