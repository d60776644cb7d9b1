"""`shoal chain`: what a request for a service may set off, as far as agents have seen, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.completion import services
from agent.cli.failure import Exit, Failure
from agent.cli.options import Options

if TYPE_CHECKING:
    from policies.chain import Finding, Node
    from registry.census import Census


def chain(
    context: typer.Context,
    service: Annotated[
        str, typer.Argument(help="Where the chain begins, such as `shop.production`.", autocompletion=services)
    ],
) -> None:
    """Show what a request for a service may set off: limits of time, tries and breakers along the chain of calls.

    The calls are those that agents have seen; the figures are those of the policies in force. Exit code 1 when
    something is wrong with the chain.

    Example:  shoal chain shop.production
    """
    from agent.cli.etcd_client import ask
    from agent.findings.of_mesh.chains import calls_of, hops_of
    from policies.chain import findings, tree
    from policies.hops import default_hop
    from policies.language.names import parse_service
    from registry.census import take

    options: Options = context.obj
    try:
        root_name = parse_service(service)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    census = ask(options, lambda store: take(store, options.mesh, "policies", "instances", "seen"))
    check_known(census, root_name)
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


def check_known(census: Census, service: str) -> None:
    """Raises Failure for a service that nothing is known of: neither an instance nor a call nor a policy."""
    from policies.language.document import meant

    called = {name for services in census.calls.values() for name in services}
    own = {pattern for _, pattern in census.policies if "*" not in pattern}
    known = {name for name, _ in census.instances} | set(census.calls) | called | own
    if service not in known:
        raise Failure(
            f"there is no service {service}{meant(service, known)}; `shoal services` lists those that there are"
        )


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
    if hop.backpressure:
        parts.append("back-pressure")
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
        "backpressure": hop.backpressure,
        "policies": dict(hop.sources),
        "again": node.again,
        "calls": [plain(child) for child in node.children],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.kind, "path": list(finding.path), "reason": finding.reason}
