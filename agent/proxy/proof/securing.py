# mypyc: compiled
"""Whether a try goes by TLS, and as whom: decided by policy and by what the other agent has published, and never by
what the network answers. So who cuts or garbles a handshake gets a failed request, and none in plain text.

An instance that speaks TLS itself is dialled so by whoever hands the request to it: the agent beside it, and where none
is, the caller's. `tell` says of a try what `lane_to` decides.

Law: nobody who has a name calls as nobody. A caller whose certificate this host does not hold (it was never granted, or
it was revoked) would be one whom no rule knows, and what is denied to it would be open.
"""

from __future__ import annotations

from typing import Final

from agent.identity.spiffe import agent_id, service_id
from agent.proxy.http1.client import Lane
from agent.proxy.proof.origins import OriginWay
from agent.proxy.report.story import Entry, Policies, entry
from agent.proxy.runtime import Runtime
from agent.proxy.table.service import Service
from agent.trust import is_loopback
from policies.endpoint import Endpoint
from policies.kinds.tls.decide import OFF, PERMISSIVE, STRICT, Tls
from policies.stranger import Stranger

HANDED_ON: Final = Tls(STRICT, "callers of other trust domains are handed on by TLS only")


def wanted_of(target: Service | None, endpoint: Endpoint, stranger: Stranger | None) -> Tls | None:
    """What decides of a hop; None: nothing, it is in plain text. Another agent is told of a stranger by who is proven
    to it, or not at all."""
    if stranger is not None and endpoint.via:
        return HANDED_ON
    return target.plan.tls if target is not None else None


def lane_to(runtime: Runtime, endpoint: Endpoint, caller: str, tls: Tls) -> Lane | str:
    """The connections by which a caller reaches an endpoint of a service; or why it may not."""
    if endpoint.expected:
        lane = runtime.pool.lane(caller, endpoint.expected, runtime.security)
        return lane if lane is not None else runtime.security.lacks(caller, endpoint.expected)
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
    found = _secured(runtime, endpoint, caller)
    if isinstance(found, str) and tls.mode != STRICT:
        return runtime.pool.plain
    return found


def secure(runtime: Runtime, target: Service, endpoint: Endpoint, caller: str, tls: Tls) -> Lane | str:
    """The same, for a try that is made: plain text where it could be TLS is counted."""
    found = lane_to(runtime, endpoint, caller, tls)
    if tls.mode == PERMISSIVE and endpoint.via and found is runtime.pool.plain:
        target.stats.note_plain(endpoint.agent)
    return found


def unsafe(endpoint: Endpoint, reason: str, tls: Tls) -> str:
    """Why an endpoint is not tried, for callers."""
    host, port = endpoint.dial
    return f"{host}:{port} cannot be reached in safety: {reason} ({tls.reason_policy})"


def _secured(runtime: Runtime, endpoint: Endpoint, caller: str) -> Lane | str:
    """Of a hop to another agent, if both sides can prove who they are."""
    now_s = runtime.recorder.epoch + runtime.reactor.now
    if endpoint.secured_until <= now_s:
        ended = " any more: it has ended" if endpoint.secured_until else ""
        return f"the agent of {endpoint.agent} holds no certificate of {endpoint.service}{ended}"
    lane = runtime.pool.lane(caller, endpoint.service, runtime.security)
    return runtime.security.lacks(caller) if lane is None else lane


def _beside(runtime: Runtime, endpoint: Endpoint, tls: Tls) -> Lane | str:
    """An instance of this host, or one that no agent is beside."""
    if tls.mode != STRICT or endpoint.agent == runtime.table.host or is_loopback(endpoint.address):
        return runtime.pool.plain
    if endpoint.agent:
        return f"the agent of {endpoint.agent}, which would prove that it is {endpoint.service}, is not there"
    return "no agent is beside it that could prove who it is"


# What is told.


def proven_caller(runtime: Runtime, endpoint: Endpoint, caller: str, tls: Tls | None) -> str | None:
    """Who an endpoint's agent is shown to be calling, where the hop is TLS (empty: nobody but this agent); None: it is
    in plain text."""
    lane = lane_to(runtime, endpoint, caller, tls) if tls is not None and endpoint.via else None
    if lane is None or isinstance(lane, str) or lane.way is None:
        return None
    return lane.way.caller


def tell(runtime: Runtime, endpoint: Endpoint, caller: str, tls: Tls | None, policies: Policies) -> Entry:
    """How a try is made: plain text or TLS, who is shown to whom, by which document."""
    if tls is None:
        return _entry(policies, "", "plain text", f"no tls document is for {endpoint.service}")
    found = lane_to(runtime, endpoint, caller, tls)
    by_origin = tls.origin is not None and not endpoint.via and (tls.origin.speaks == "tls" or not endpoint.agent)
    key = tls.origin_key if by_origin else tls.key
    if isinstance(found, str):
        return _entry(policies, key, "not sent", found)
    way = found.way
    if way is None:
        return _entry(policies, key, "plain text", _why_plain(runtime, endpoint, caller, tls, by_origin=by_origin))
    if isinstance(way, OriginWay):
        shown = "this host's client certificate" if way.mark else "nothing"
        return _entry(policies, key, "TLS", f"the instance has to be {way.sni}; it is shown {shown}")
    domain = runtime.security.trust_domain
    shown = str(service_id(domain, way.caller) if way.caller else agent_id(domain, runtime.table.host))
    if endpoint.expected:
        return entry(policies.get("import"), "hop", "import", "mTLS", f"shown {shown}; expects {endpoint.expected}")
    return _entry(policies, key, "mTLS", f"shown {shown}; expects {service_id(domain, endpoint.service)}")


def _why_plain(runtime: Runtime, endpoint: Endpoint, caller: str, tls: Tls, *, by_origin: bool) -> str:
    if by_origin:
        return "the instance has no agent, and $.origin says that it is meant"
    if tls.mode == OFF:
        return "mtls is off"
    if endpoint.via:
        found = _secured(runtime, endpoint, caller)
        assert isinstance(found, str), "it would be TLS"
        return found
    if endpoint.agent == runtime.table.host or is_loopback(endpoint.address):
        return "the instance is on this host"
    return "no agent is beside the instance"


def _entry(policies: Policies, key: str, decision: str, reason: str) -> Entry:
    in_force = policies.get("tls")
    if in_force is not None:
        in_force = next((each for each in in_force.levels if each.key == key), None)
    return entry(in_force, "hop", "tls", decision, reason)
