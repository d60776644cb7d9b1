"""`shoal chain`: what a request for a service may set off, as far as agents have seen, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.options import Options

if TYPE_CHECKING:
    from agent.cli.census import Census
    from agent.cli.documents import Source
    from policies.chain import Finding, Hop, Node


def chain(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="Where the chain begins, such as `shop.production`.")],
) -> None:
    """Show what a request for a service may set off: limits of time, tries and breakers along the chain of calls.

    The calls are those that agents have seen; the figures are those of the policies in force. Exit code 1 when
    something is wrong with the chain.

    Example:  shoal chain shop.production
    """
    from agent.cli.census import take
    from agent.cli.etcd_client import ask
    from policies.chain import findings, tree
    from policies.language.names import parse_service

    options: Options = context.obj
    try:
        root_name = parse_service(service)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    census = ask(options, lambda store: take(store, options.mesh, "policies", "seen"))
    calls, hops = calls_of(census), hops_of(census, root_name)
    root = tree(root_name, calls, hops, default_hop())
    found = findings(root, hops)
    if options.printer.json:
        options.printer.value({"chain": plain(root), "findings": [_finding(finding) for finding in found]})
    else:
        for line in drawn(root):
            options.printer.text(line)
        for finding in found:
            options.printer.text(f"{finding.kind:14}{finding}")
        if not root.children:
            options.printer.note("no agent has seen this service call another; callers are known by their credentials")
    if found:
        raise typer.Exit(Exit.NO)


def warnings(census: Census, sources: Sequence[Source]) -> list[Finding]:
    """What would be wrong with the chains that there are, were these documents put, and is not wrong now."""
    from policies.chain import findings, tree

    calls = calls_of(census)
    roots = sorted({*calls, *(source.service for source in sources if "*" not in source.service)})
    now = hops_of(census, *roots)
    then = hops_of(census, *roots, extra={(source.kind, source.service): source.text for source in sources})
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
    """What is in force for each service that calls or is called, and for `more`; with `extra` documents in force."""
    texts = {identity: policy.text for identity, policy in census.policies.items()} | dict(extra or {})
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
    from policies.kinds.shed.document import Shed
    from policies.kinds.timeout import decide as timeout
    from policies.kinds.timeout.document import Timeout
    from policies.language.names import parse_service

    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for kind, document in (("timeout", Timeout), ("retry", Retry), ("breaker", Breaker), ("shed", Shed)):
        pattern, text = _most_specific(kind, service, texts)
        parsed = _parsed(kind, pattern, text)
        if isinstance(parsed, document) and parsed.mode == "enforce":
            found[kind] = parsed
            sources[kind] = f"{kind}/{pattern}"
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
    )


def _most_specific(kind: str, service: str, texts: Mapping[tuple[str, str], bytes]) -> tuple[str, bytes]:
    from policies.language.names import candidates

    for pattern in candidates(service):
        if (kind, pattern) in texts:
            return pattern, texts[kind, pattern]
    return "", b""


def _parsed(kind: str, pattern: str, text: bytes) -> Any:
    from policies.catalogue import parse

    return parse(kind, pattern, text) if text else None


# For people and scripts.


def drawn(node: Node, lead: str = "", last: bool = True, root: bool = True) -> Iterable[str]:
    """The tree, a line a service."""
    branch = "" if root else ("└─ " if last else "├─ ")
    yield f"{lead}{branch}{node.service}  {_figures(node)}"
    below = "" if root else lead + ("   " if last else "│  ")
    for n, child in enumerate(node.children):
        yield from drawn(child, below, n == len(node.children) - 1, root=False)


def _figures(node: Node) -> str:
    if node.again:
        return "(stands above already)"
    hop = node.hop
    parts = [f"within {node.wait_s:g} s" if node.wait_s else "without limit"]
    if hop.wait_s and node.wait_s < hop.wait_s:
        parts[0] += f" (of its own {hop.wait_s:g} s)"
    if hop.timeouts.try_s:
        parts.append(f"{hop.timeouts.try_s:g} s a try")
    parts.append(f"{hop.retry.attempts} {'try' if hop.retry.attempts == 1 else 'tries'}")
    if hop.retry.attempts > 1:
        parts.append(
            f"budget {hop.retry.ratio:.0%} + {hop.retry.min_per_s:g}/s" if hop.retry.bounded else "no retry budget"
        )
    parts.append(f"at most {node.requests} requests")
    parts.append("breaker" + (f", else {hop.fallback}" if hop.fallback else "") if hop.breaker else "no breaker")
    return ", ".join(parts)


def plain(node: Node) -> dict[str, Any]:
    """The tree for `--output json`."""
    hop = node.hop
    return {
        "service": node.service,
        "within_s": node.wait_s,
        "timeout_s": hop.wait_s,
        "try_s": hop.timeouts.try_s,
        "attempts": hop.retry.attempts,
        "requests": node.requests,
        "breaker": hop.breaker,
        "fallback": hop.fallback,
        "policies": dict(hop.sources),
        "again": node.again,
        "calls": [plain(child) for child in node.children],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.kind, "path": list(finding.path), "reason": finding.reason}
