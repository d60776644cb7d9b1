"""A chain of services, looked at as a whole: what a request for the first may set off, and what is wrong with that.

The edges are those that agents have seen; the figures are those of the policies in force. Nothing is measured here.

Laws that a chain should keep
- Nobody waits for an answer longer than his own caller waits for him.
- Tries do not multiply: of several services in a row, one tries again.
- Who tries again has a breaker: a service that is down should get fewer requests, not more.
- A fallback leads somewhere else, and so does a way out of an overload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from policies.kinds.retry.policy import RetryPolicy
from policies.kinds.timeout.decide import Timeouts

MAX_DEPTH = 32
MAX_REQUESTS = 3
"""As many requests to the last service of a chain one request to the first may become."""


class Hop(NamedTuple):
    """What is in force for requests to one service."""

    timeouts: Timeouts
    retry: RetryPolicy
    breaker: bool = False
    fallback: str = ""
    """The service that takes over when the breaker is open; empty: none does."""
    ways_out: tuple[str, ...] = ()
    """Services that get what is too much for it."""
    sources: Mapping[str, str] = {}
    """By kind: the policy that says so, as `retry/*.production`; without one it is the default."""
    rule_s: float = 0.0
    """The longest that a rule of its route gives a request, in place of the policy's time; 0: none does."""
    backpressure: bool = False
    """Whether it lets in what can succeed only, while what it calls has no room."""

    @property
    def wait_s(self) -> float:
        """For how long a caller may wait for this service, by the rule that gives most; 0: without end."""
        return max(self.timeouts.request_s, self.rule_s) if self.timeouts.request_s else 0.0


class Node(NamedTuple):
    """A service in the chain."""

    service: str
    hop: Hop
    wait_s: float
    """The time that is left for it at most: its own limit, or that of whoever waits for it. 0: no limit."""
    requests: int
    """Requests to it that one request to the root may become at worst."""
    children: tuple[Node, ...]
    again: bool = False
    """It stands further up already: a circle, not followed any further."""


class Finding(NamedTuple):
    """Something that is wrong, and what would be right."""

    kind: str
    """`timeout`, `amplification`, `breaker`, `fallback`, `shed`, `circle`, `unlimited`."""
    path: tuple[str, ...]
    """The services from the root to where it is."""
    reason: str

    def __str__(self) -> str:
        return f"{' → '.join(self.path)}: {self.reason}"


def tree(root: str, calls: Mapping[str, frozenset[str]], hops: Mapping[str, Hop], default: Hop) -> Node:
    """What a request for `root` may set off. `calls` has the services that a service was seen to call."""
    return _node(root, calls, hops, default, (), 0.0, 1)


def _node(
    service: str,
    calls: Mapping[str, frozenset[str]],
    hops: Mapping[str, Hop],
    default: Hop,
    above: tuple[str, ...],
    left_s: float,
    requests: int,
) -> Node:
    hop = hops.get(service, default)
    wait_s = min(hop.wait_s or left_s, left_s or hop.wait_s)
    requests *= hop.retry.attempts
    if service in above or len(above) >= MAX_DEPTH:
        return Node(service, hop, wait_s, requests, (), again=True)
    path = (*above, service)
    children = tuple(
        _node(callee, calls, hops, default, path, wait_s, requests) for callee in sorted(calls.get(service, ()))
    )
    return Node(service, hop, wait_s, requests, children)


def findings(root: Node, hops: Mapping[str, Hop]) -> list[Finding]:
    """What is wrong with a chain, from the root down; `hops` of all services, for where fallbacks and ways out lead."""
    found = list(_walk(root, (), 0.0, 0))
    unique: dict[tuple[str, str, str], Finding] = {}
    for finding in [*found, *_fallbacks(root, hops, ()), *_ways_out(root, hops, ())]:
        unique.setdefault((finding.kind, finding.path[-1], finding.reason), finding)
    return list(unique.values())


def _walk(node: Node, above: tuple[str, ...], caller_s: float, retrying: int, asked: bool = False) -> Iterator[Finding]:
    """`retrying`: how many above try again; `asked`: whether a policy says so of one of them at least, and not only the
    default, which agents hold down along chains by themselves."""
    path = (*above, node.service)
    hop = node.hop
    if node.again:
        yield Finding(
            "circle", path, f"{node.service} calls itself in the end; each round uses up the time of the last"
        )
        return
    if not hop.wait_s:
        reason = "no limit of time; give its timeout a `request`"
        yield Finding("unlimited", path, reason)
    elif caller_s and hop.wait_s > caller_s:
        reason = (
            f"may take {hop.wait_s:g} s, but whoever asked {above[-1]} has gone after {caller_s:g} s; "
            f"at most {caller_s:g} s would be right"
        )
        yield Finding("timeout", path, reason)
    tries_s = hop.timeouts.try_s * hop.retry.attempts
    if hop.wait_s and tries_s > hop.wait_s:
        reason = (
            f"{hop.retry.attempts} tries of {hop.timeouts.try_s:g} s do not fit into {hop.wait_s:g} s; the last is cut"
        )
        yield Finding("timeout", path, reason)
    again = retrying + (hop.retry.attempts > 1)
    asked = asked or ("retry" in hop.sources and hop.retry.attempts > 1)
    if asked and again > 1 and hop.retry.attempts > 1 and node.requests > MAX_REQUESTS:
        reason = (
            f"one request to {path[0]} may become {node.requests} here, for {again} services in a row try again; "
            f'let the others have {{"attempts": 1}}'
        )
        yield Finding("amplification", path, reason)
    if hop.retry.attempts > 1 and "retry" in hop.sources and not hop.breaker:
        yield Finding(
            "breaker", path, "is tried again without a breaker: when it is down it gets more requests, not fewer"
        )
    for child in node.children:
        yield from _walk(child, path, min(hop.wait_s or caller_s, caller_s or hop.wait_s), again, asked)


def _fallbacks(node: Node, hops: Mapping[str, Hop], above: tuple[str, ...]) -> Iterator[Finding]:
    path = (*above, node.service)
    seen = [node.service]
    while target := (hops[seen[-1]].fallback if seen[-1] in hops else ""):
        if target in seen or target in above:
            way = " → ".join([*seen, target])
            yield Finding("fallback", path, f"its fallback leads back to where it came from: {way}")
            break
        seen.append(target)
    if not node.again:
        for child in node.children:
            yield from _fallbacks(child, hops, path)


def _ways_out(node: Node, hops: Mapping[str, Hop], above: tuple[str, ...]) -> Iterator[Finding]:
    """Load that is sent round: to a caller, or to who sends it back."""
    path = (*above, node.service)
    for target in node.hop.ways_out:
        back = target in above or node.service in (hops[target].ways_out if target in hops else ())
        if back and target != node.service:
            whose = "which waits for it" if target in above else "which sends its own back"
            yield Finding("shed", path, f"sends what is too much to {target}, {whose}: an overload goes round")
    if not node.again:
        for child in node.children:
            yield from _ways_out(child, hops, path)
