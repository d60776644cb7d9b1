# mypyc: compiled
"""The words of a request's story: what was decided, by which policy and revision, and why.

Kept apart from the exchange so that the exchange reads as the story itself. The same entries answer `x-shoal-explain`,
`/explain` and `shoal explain`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.proxy.answers import Refusal
from policies.decision import Decision, Forward, Redirect, Respond
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer
from policies.kinds.retry.decide import Again, Enough
from policies.kinds.retry.policy import Failure

if TYPE_CHECKING:
    from agent.proxy.table import Plan, Service
    from policies.kinds.fault.decide import Injected
    from policies.kinds.ratelimit.buckets import Limited
    from policies.kinds.shadow.decide import Order
    from policies.kinds.shed.decide import Store
    from policies.request import RequestView

Explained = list[dict[str, Any]]
_EXPLAIN_BYTES: Final = 6000


def no_service(host: bytes) -> Refusal:
    """Nobody is registered under the name that was asked for."""
    name = host.decode("latin-1")[:200]
    return Refusal(
        404, "service", f"no service {name!r} in this mesh; 'shoal services' lists those there are", unsent=True
    )


def no_endpoint(plan: Plan, forward: Forward | None) -> Refusal:
    """The service is known, but nothing can take the request."""
    name = (forward.service if forward is not None else None) or plan.service
    subset = f" with {forward.subset}" if forward is not None and forward.subset is not None else ""
    return Refusal(503, "endpoint", f"no endpoint of {name}{subset} can take the request", 1, unsent=True)


def entry(plan: Plan | None, phase: str, kind: str, decision: str, reason: str) -> dict[str, Any]:
    """One decision, with the policy behind it (empty: the built-in default)."""
    frame = plan.policies.get(kind) if plan is not None else None
    return {
        "phase": phase,
        "policy": f"{kind}/{frame.key}" if frame is not None else "",
        "revision": frame.revision if frame is not None else 0,
        "mode": frame.mode if frame is not None else "enforce",
        "decision": decision,
        "reason": reason,
    }


def routed(plan: Plan, decision: Decision) -> dict[str, Any]:
    """What the route policy decided."""
    return entry(plan, "route", "route", _action(plan, decision), f"{decision.rule}: {decision.reason}")


def _action(plan: Plan, decision: Decision) -> str:
    action = decision.action
    if isinstance(action, Forward):
        subset = "" if action.subset is None else f" {describe_subset(action)}"
        rewrite = "" if action.target is None else f" as {action.target}"
        return f"forward to {action.service or plan.service}{subset}{rewrite}"
    if isinstance(action, Redirect):
        return f"redirect {action.status} to {action.location}"
    return f"respond {action.status}"


def describe_subset(forward: Forward) -> str:
    """`version v2, tier=gold`."""
    subset = forward.subset
    if subset is None:
        return ""
    parts = [f"version {subset.version}"] if subset.version else []
    return ", ".join([*parts, *(f"{key}={value}" for key, value in subset.labels)])


def balanced(plan: Plan, balancer: Balancer, endpoint: Endpoint, *, sticky: bool) -> dict[str, Any]:
    """Which endpoint was picked, and how."""
    load = endpoint.load
    how = "the client's session" if sticky else str(balancer.describe().get("algorithm", ""))
    return entry(
        plan,
        "balance",
        "balance",
        f"endpoint {endpoint.id} at {endpoint.address}:{endpoint.port}"
        + (f" via agent {endpoint.agent}" if endpoint.via else ""),
        f"{how}; {load.active} in flight here, {'healthy' if endpoint.healthy else 'not healthy'}",
    )


def limits(plan: Plan) -> list[dict[str, Any]]:
    """The time limits and retries that apply."""
    timeouts, retry = plan.timeouts, plan.retry
    times = ", ".join(
        f"{name} {value:g} s" if value else f"{name} unlimited"
        for name, value in (
            ("connect", timeouts.connect_s),
            ("try", timeouts.try_s),
            ("request", timeouts.request_s),
            ("idle", timeouts.idle_s),
        )
    )
    whole = "whole request" if plan.bounds_whole_request else "request sent to first byte of the answer"
    return [
        entry(plan, "timeout", "timeout", times, f"`request` covers: {whole}"),
        entry(plan, "retry", "retry", f"up to {retry.attempts} attempts", "within the service's retry budget"),
    ]


def retried(plan: Plan, failure: Failure, reason: str, verdict: Again | Enough) -> dict[str, Any]:
    """What became of a failed attempt."""
    decision = f"again after {verdict.delay_s * 1000:.0f} ms" if isinstance(verdict, Again) else "no further attempt"
    return entry(plan, "retry", "retry", decision, f"{failure.name.lower()}: {reason}; {verdict.reason}")


def limited(plan: Plan, refusing: Limited | None) -> dict[str, Any]:
    """What the rate limits said."""
    if refusing is None:
        return entry(plan, "admit", "ratelimit", "goes on", "within its limits")
    return entry(plan, "admit", "ratelimit", f"refused by {refusing.name}", refusing.reason)


def injected(plan: Plan, fault: Injected) -> dict[str, Any]:
    """What a fault policy does to the request."""
    done = [f"delay {fault.delay_s:g} s"] if fault.delay_s else []
    if fault.reset:
        done.append("close the connection")
    if fault.abort is not None:
        done.append(f"answer {fault.abort.status}")
    if fault.bytes_per_s:
        done.append(f"throttle to {fault.bytes_per_s:g} bytes/s")
    return entry(plan, "admit", "fault", ", ".join(done), f"{fault.rule}: {fault.reason}")


def guards(service: Service) -> list[dict[str, Any]]:
    """Rate limits and faults that a request would meet; they are asked by real requests only, for asking counts."""
    plan = service.plan
    told = []
    if plan.limits is not None:
        names = ", ".join(plan.limits.compiled.names) or "none"
        told.append(entry(plan, "admit", "ratelimit", f"limits: {names}", "counted for real requests only"))
    if plan.fault is not None:
        active = plan.fault.compiled.expires > time.time()
        reason = f"until {datetime.fromtimestamp(plan.fault.compiled.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"
        told.append(entry(plan, "admit", "fault", "may be injected" if active else "expired", reason))
    if plan.shed is not None and service.limiter is not None:
        here = f"{service.limiter.active} under way here, of {service.limiter.limit:.0f}"
        ways = len(plan.shed.compiled.ways)
        told.append(entry(plan, "admit", "shed", here, f"decided by the instance's agent; {ways} ways out"))
    return told


def breaker(plan: Plan, state: str, reason: str, *, asked: bool = True) -> dict[str, Any]:
    """What the breaker of the service said; or, not `asked`, how it stands."""
    if not asked:
        return entry(plan, "breaker", "breaker", state, reason or "nothing speaks against it")
    return entry(plan, "breaker", "breaker", f"refused: {state}" if reason else state, reason or "lets it pass")


def copied(plan: Plan, orders: Iterable[Order]) -> dict[str, Any]:
    """Copies that are made of the request."""
    return entry(plan, "shadow", "shadow", "copied", "; ".join(map(str, orders)))


def may_be_copied(plan: Plan, request: RequestView) -> list[dict[str, Any]]:
    """Copies that may be made of such a request."""
    if plan.shadow is None:
        return []
    samples = "; ".join(map(str, plan.shadow.compiled.may(request)))
    return [entry(plan, "shadow", "shadow", "may be copied" if samples else "not copied", samples)]


def shed(plan: Plan, reason: str) -> dict[str, Any]:
    """Whether the instance's agent let it in."""
    return entry(plan, "admit", "shed", "not let in" if reason else "let in", reason or "within the limit")


def stored(plan: Plan, keeping: Store, name: str) -> dict[str, Any]:
    """It was kept for later."""
    return entry(plan, "answer", "shed", f"stored as {name}", f"in {keeping.url}; `shoal replay` sends it")


def hedged(plan: Plan, first: Endpoint, second: Endpoint, after_s: float) -> dict[str, Any]:
    """A second attempt beside the first."""
    reason = f"{first.id} has not answered for {after_s * 1000:.0f} ms"
    return entry(plan, "retry", "retry", f"hedge at endpoint {second.id}", reason)


def refused(plan: Plan | None, refusal: Refusal) -> dict[str, Any]:
    """The mesh's own answer."""
    return entry(plan, "answer", refusal.policy, f"answer {refusal.status}", refusal.reason)


def explain_field(explained: Explained, endpoint: Endpoint | None, inbound: bool) -> bytes:
    """The `x-shoal-explain` response header: JSON, ASCII, bounded."""
    hop = b"x-shoal-explain-inbound" if inbound else b"x-shoal-explain"
    kept = list(explained)
    while True:
        told = {"decisions": kept, "endpoint": endpoint.id if endpoint is not None else None}
        text = msgspec.json.encode(told).decode().encode("ascii", "backslashreplace")
        if len(text) <= _EXPLAIN_BYTES or not kept:
            return b"%b: %b\r\n" % (hop, bytes(b if 0x20 <= b < 0x7F else 0x3F for b in text))
        kept.pop()


def header_lines(headers: Iterable[tuple[str, str]]) -> list[bytes]:
    """As they go over the wire."""
    return [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in headers]


def direct_answer(action: Redirect | Respond) -> tuple[list[bytes], bytes, int]:
    """Header lines, body and status of an answer that a route gives by itself."""
    fields = [b"server: shoal\r\n", b"x-shoal-policy: route\r\n"]
    if isinstance(action, Redirect):
        fields.append(b"location: %b\r\n" % action.location.encode("latin-1", "replace"))
        return fields, b"", action.status
    fields += header_lines(action.headers)
    return fields, action.body, action.status
