# mypyc: compiled
"""Whether a try goes by TLS, and as whom: decided by policy and by what the other agent has published, and never by
what the network answers. So who cuts or garbles a handshake gets a failed request, and none in plain text.

An instance that speaks TLS itself is dialled so by whoever hands the request to it: the agent beside it, and where none
is, the caller's.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.http1.client import Lane
from agent.proxy.runtime import Runtime
from agent.proxy.table.service import Service
from agent.trust import is_loopback
from policies.endpoint import Endpoint
from policies.kinds.tls.decide import OFF, STRICT, Tls
from policies.stranger import Stranger

HANDED_ON: Final = Tls(STRICT, "callers of other trust domains are handed on by TLS only", None)


def wanted_of(target: Service | None, endpoint: Endpoint, stranger: Stranger | None) -> Tls | None:
    """What decides of a hop; None: nothing, it is in plain text. Another agent is told of a stranger by who is proven
    to it, or not at all."""
    if stranger is not None and endpoint.via:
        return HANDED_ON
    return target.plan.tls if target is not None else None


def lane_to(runtime: Runtime, target: Service, endpoint: Endpoint, caller: str, tls: Tls) -> Lane | str:
    """The connections by which a caller reaches an endpoint of a service; or why it may not."""
    if endpoint.expected:
        lane = runtime.pool.lane(caller, endpoint.expected, runtime.security)
        return lane if lane is not None else runtime.security.lacks(endpoint.expected)
    origin = tls.origin
    if origin is not None and not endpoint.via:
        if origin.speaks == "tls":
            return runtime.pool.origin(endpoint.service, origin, runtime.origins)
        if not endpoint.agent:
            return runtime.pool.plain
    if tls.mode == OFF:
        return runtime.pool.plain
    if not endpoint.via:
        return _beside(runtime, endpoint, tls)
    now_s = runtime.recorder.epoch + runtime.reactor.now
    if endpoint.secured_until <= now_s:
        reason = f"the agent of {endpoint.agent} holds no certificate of {endpoint.service}"
        if endpoint.secured_until:
            reason += " any more: it has ended"
    else:
        lane = runtime.pool.lane(caller, endpoint.service, runtime.security)
        if lane is not None:
            return lane
        reason = "this agent holds no certificate"
    if tls.mode == STRICT:
        return reason
    target.stats.note_plain(endpoint.agent)
    return runtime.pool.plain


def _beside(runtime: Runtime, endpoint: Endpoint, tls: Tls) -> Lane | str:
    """An instance of this host, or one that no agent is beside."""
    if tls.mode != STRICT or endpoint.agent == runtime.table.host or is_loopback(endpoint.address):
        return runtime.pool.plain
    if endpoint.agent:
        return f"the agent of {endpoint.agent}, which would prove that it is {endpoint.service}, is not there"
    return "no agent is beside it that could prove who it is"
