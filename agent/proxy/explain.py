# mypyc: interpreted, because it answers people, and no request waits for it
"""What would happen to a request: the same decisions that a real one meets, in the same order, without sending it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.proxy import story
from agent.proxy.answers import Refusal
from agent.proxy.head import BadHead, RequestHead, parse_request
from agent.proxy.view import HeadView
from policies.decision import Forward
from policies.endpoint import Endpoint

if TYPE_CHECKING:
    from agent.proxy.table import Service
    from agent.proxy.worker import Worker


def explain(worker: Worker, args: dict[str, Any]) -> dict[str, Any]:
    """Args: `method`, `url` (http://service/path, or service/path), `caller`, `headers` [[name, value]].

    Returns `decisions`, `endpoint` (or None) and `status` (of an answer that the mesh would give itself, or None).
    """
    try:
        request = _request(args)
    except BadHead as bad:
        return {"decisions": [story.entry(None, "http", "", "answer 400", bad.reason)], "endpoint": None, "status": 400}
    service = worker.table.find(request.host)
    if service is None:
        refusal = story.no_service(request.host)
        return {"decisions": [story.refused(None, refusal)], "endpoint": None, "status": refusal.status}
    plan = service.plan
    found = story.entry(
        None, "service", "", service.name, f"{len(plan.endpoints)} endpoints, table {worker.table.revision}"
    )
    return _decide(worker, service, HeadView(request, str(args.get("caller") or "")), [found])


def _decide(worker: Worker, service: Service, view: HeadView, told: story.Explained) -> dict[str, Any]:
    plan = service.plan
    balancer = plan.balancer
    target = service
    told.extend(story.guards(service))
    forward: Forward | None = None
    if plan.route is not None:
        decision = plan.route.decide(view, worker.rng)
        told.append(story.routed(plan, decision))
        if not plan.route.audit:
            if not isinstance(decision.action, Forward):
                return {"decisions": told, "endpoint": None, "status": decision.action.status}
            forward = decision.action
            found = worker.table.target(service, forward)
            if isinstance(found, Refusal):
                told.append(story.refused(plan, found))
                return {"decisions": told, "endpoint": None, "status": found.status}
            target = found
            balancer = target.plan.group(forward.subset)
    if target.plan.breaker is not None and target.circuit is not None:
        told.append(story.breaker(target.plan, target.circuit.state, target.circuit.reason, asked=False))
    told.extend(story.limits(plan))
    told.extend(story.may_be_copied(plan, view))
    key = balancer.key(view) if balancer.needs_key else None
    endpoint = balancer.sticky_endpoint(view) if balancer.sticky else None
    sticky = endpoint is not None
    endpoint = endpoint or balancer.pick(key, worker.reactor.now, worker.rng)
    if endpoint is None:
        refusal = story.no_endpoint(plan, forward)
        told.append(story.refused(plan, refusal))
        return {"decisions": told, "endpoint": None, "status": refusal.status}
    told.append(story.balanced(plan, balancer, endpoint, sticky=sticky))
    return {"decisions": told, "endpoint": _endpoint(endpoint), "status": None}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "service": endpoint.service,
        "id": endpoint.id,
        "address": endpoint.address,
        "port": endpoint.port,
        "version": endpoint.version,
        "zone": endpoint.zone,
        "via": endpoint.agent if endpoint.via else "",
    }


def _request(args: dict[str, Any]) -> RequestHead:
    url = str(args.get("url") or "")
    parts = urlsplit(url if "://" in url else f"http://{url}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{str(args.get('method') or 'GET').upper()} {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in args.get("headers") or [] if str(name).lower() != "host"]
    try:
        return parse_request("\r\n".join(lines).encode("latin-1"))
    except UnicodeEncodeError:
        raise BadHead("a URL or header that is not ASCII: percent-encode it") from None
