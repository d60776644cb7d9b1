"""The chains of calls that agents have seen, and what is in force along them: what `policies.chain` judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.cli.census import Census
    from agent.cli.documents import Source
    from policies.chain import Finding, Hop
    from policies.kinds.route.document import Route


def warnings(census: Census, sources: Sequence[Source]) -> list[Finding]:
    """What would be wrong with the chains that there are, were these documents put, and is not wrong now."""
    from policies.chain import findings, tree

    calls = calls_of(census)
    roots = sorted({*calls, *(source.service for source in sources if "*" not in source.service)})
    now = hops_of(census, *roots)
    extra = {(source.kind, source.service): source.text for source in sources if not source.watched}
    then = hops_of(census, *roots, extra=extra)
    default = default_hop()
    known = {str(finding) for root in roots for finding in findings(tree(root, calls, now, default), now)}
    fresh: dict[str, Finding] = {}
    for root in roots:
        for finding in findings(tree(root, calls, then, default), then):
            if str(finding) not in known:
                fresh.setdefault(str(finding), finding)
    return list(fresh.values())


def calls_of(census: Census) -> dict[str, frozenset[str]]:
    """Which service calls which; callers that do not say who they are left out."""
    return {caller: frozenset(services) for caller, services in census.calls.items() if caller}


def default_hop() -> Hop:
    """What is in force where no policy is."""
    from policies.chain import Hop
    from policies.kinds.retry import decide as retry
    from policies.kinds.timeout import decide as timeout

    return Hop(timeout.compile(None), retry.compile(None))


def hops_of(census: Census, *more: str, extra: Mapping[tuple[str, str], bytes] | None = None) -> dict[str, Hop]:
    """What is in force for each service that calls or is called, and for `more`; with `extra` documents in force. What
    is only watched takes nothing out of force."""
    from agent.cli.documents import says_audit

    texts = {identity: policy.text for identity, policy in census.policies.items()} | dict(extra or {})
    texts = {identity: text for identity, text in texts.items() if not says_audit(text)}
    names = {*more, *calls_of(census), *(service for services in census.calls.values() for service in services)}
    hops: dict[str, Hop] = {}
    while fresh := names - hops.keys():
        for name in fresh:
            hops[name] = _hop(name, texts)
        names |= {hop.fallback for hop in hops.values() if hop.fallback}
        names |= {name for hop in hops.values() for name in hop.ways_out}
    return hops


def _hop(service: str, texts: Mapping[tuple[str, str], bytes]) -> Hop:
    from policies.chain import Hop
    from policies.kinds.breaker.document import Breaker
    from policies.kinds.retry import decide as retry
    from policies.kinds.retry.document import Retry
    from policies.kinds.route.document import Route
    from policies.kinds.shed.document import Shed
    from policies.kinds.timeout import decide as timeout
    from policies.kinds.timeout.document import Timeout
    from policies.language.names import parse_service

    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    kinds = (("timeout", Timeout), ("retry", Retry), ("breaker", Breaker), ("shed", Shed), ("route", Route))
    for kind, document in kinds:
        pattern, text = _most_specific(kind, service, texts)
        parsed = _parsed(kind, pattern, text)
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
    from policies.language.duration import seconds

    rules = route.rules if route is not None else ()
    times = [rule.timeout.request for rule in rules if rule.timeout is not None and rule.timeout.request is not None]
    return max(map(seconds, times), default=0.0)


def _most_specific(kind: str, service: str, texts: Mapping[tuple[str, str], bytes]) -> tuple[str, bytes]:
    from policies.language.names import candidates

    for pattern in candidates(service):
        if (kind, pattern) in texts:
            return pattern, texts[kind, pattern]
    return "", b""


def _parsed(kind: str, pattern: str, text: bytes) -> Any:
    from policies.catalogue import parse

    return parse(kind, pattern, text) if text else None
