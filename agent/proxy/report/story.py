# mypyc: compiled
"""The words of a request's story: what was decided, by which policy and revision, and why.

Kept apart from the exchange so that the exchange reads as the story itself. The same entries answer `x-shoal-explain`,
`/explain` and `shoal explain`. What phases say of themselves stands with them (`agent.proxy.phases`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from agent.proxy.messages import flags
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.presented import Presented
from policies.decision import Decision, Forward, Redirect, Respond
from policies.endpoint import Endpoint
from policies.kinds.balance.decide import Balancer
from policies.kinds.retry.decide import Again, Enough
from policies.kinds.retry.policy import Failure, RetryPolicy
from policies.kinds.timeout.decide import Timeouts
from policies.language.claims import names_claim
from policies.language.document import Document

Entry: TypeAlias = dict[str, Any]
Explained: TypeAlias = list[Entry]
_EXPLAIN_BYTES: Final = 6000
UNASKED: Final = ("authn", "import", "webhook")
"""Kinds that ask no claim of a request."""


class InForce(NamedTuple):
    """A policy that applies to a service: where it stands, and what it says."""

    key: str
    revision: int
    mode: str
    document: Document
    wider: tuple[InForce, ...] = ()
    """Of a kind whose documents of every level apply: the others, the most specific first."""

    @property
    def levels(self) -> tuple[InForce, ...]:
        """All that apply."""
        return (self, *self.wider)


Policies: TypeAlias = Mapping[str, InForce]


def no_service(host: bytes) -> Refusal:
    """Nobody is registered under the name that was asked for."""
    name = host.decode("latin-1")[:200]
    return Refusal(
        404, "service", f"no service {name!r} in this mesh; 'shoal services' lists those there are", unsent=True
    )


def outside(refusal: Refusal, *, hidden: bool) -> Refusal:
    """What a caller of another trust domain is told: nothing of what is behind. `hidden`: for him nothing is there."""
    if hidden or refusal.status == 421:
        return Refusal(421, "export", "nothing of this name is here for whoever calls", unsent=True)
    if refusal.policy == "http":
        return refusal  # it is about what he sent
    return refusal._replace(reason="it is not served now; why, its own mesh knows by the request's id")


def no_tunnel() -> Refusal:
    """CONNECT, to a service of the mesh or by somebody who does not get out of it."""
    reason = "CONNECT: services of the mesh are spoken HTTP to; tunnels lead out of it, for a service of this host"
    return Refusal(405, "http", reason, unsent=True)


def leaves(host: bytes) -> Entry:
    """No service of the mesh is asked for, and its caller may ask others."""
    name = host.decode("latin-1")[:200]
    return entry(None, "egress", "", f"leaves the mesh, to {name}", "no service of the mesh has this name")


def no_endpoint(service: str, forward: Forward | None) -> Refusal:
    """The service is known, but nothing can take the request."""
    name = (forward.service if forward is not None else None) or service
    subset = f" with {forward.subset}" if forward is not None and forward.subset is not None else ""
    reason = f"no endpoint of {name}{subset} can take the request"
    return Refusal(503, "endpoint", reason, 1, unsent=True, flag=flags.SERVICE_NO_ENDPOINT)


def found(policies: Policies, service: str, endpoints: int, revision: int) -> Entry:
    """The service that was asked for; where it is another mesh's, by which document."""
    imported = policies.get("import")
    what = "gateways of another mesh" if imported is not None else "endpoints"
    return entry(imported, "service", "import", service, f"{endpoints} {what}, table {revision}")


def entry(policy: InForce | None, phase: str, kind: str, decision: str, reason: str) -> Entry:
    """One decision, with the policy behind it (None: the built-in default)."""
    return {
        "phase": phase,
        "policy": f"{kind}/{policy.key}" if policy is not None else "",
        "revision": policy.revision if policy is not None else 0,
        "mode": policy.mode if policy is not None else "enforce",
        "decision": decision,
        "reason": reason,
    }


def action(service: str, of: Forward | Redirect | Respond, presented: Presented | None = None) -> str:
    """What a route of `service` does, without the token that a query may have."""
    if isinstance(of, Forward):
        subset = "" if of.subset is None else f" {of.subset}"
        rewrite = "" if of.target is None else f" as {_recorded(of.target, presented)}"
        return f"forward to {of.service or service}{subset}{rewrite}"
    if isinstance(of, Redirect):
        return f"redirect {of.status} to {_recorded(of.location, presented)}"
    return f"respond {of.status}"


def _recorded(target: str, presented: Presented | None) -> str:
    if presented is None:
        return target
    return presented.recorded(target.encode("latin-1", "replace")).decode("latin-1")


def unknown(policies: Policies, service: str, known: bool, supposed: Mapping[str, str] | None) -> list[Entry]:
    """Documents that ask for claims which no request can have, and claims that a request is supposed to have in vain.
    `known`: whether documents say whose tokens count."""
    if known:
        return []
    naming = [(kind, policy) for kind, policy in policies.items() if kind not in UNASKED]
    found = [
        entry(policy, "admit", kind, "no claim holds", f"it names a claim, but no authn document covers {service}")
        for kind, policy in naming
        if names_claim(policy.document)
    ]
    if supposed is not None:
        reason = f"no authn document covers {service}: no token counts there"
        found.append(entry(None, "admit", "", "no claim holds", reason))
    return found


def taken_over(
    policies: Policies, service: str, forward: Forward, found: Decision, presented: Presented | None = None
) -> Entry:
    """The others of a split have the share of a target that nobody can serve."""
    empty = forward.service or service
    subset = f" with {forward.subset}" if forward.subset is not None else ""
    reason = f"{found.rule}: no instance of {empty}{subset} is healthy, and the others have its share"
    return entry(policies.get("route"), "route", "route", f"{action(service, found.action, presented)} instead", reason)


def balanced(policies: Policies, balancer: Balancer, endpoint: Endpoint, *, sticky: bool, refusing: bool) -> Entry:
    """Which endpoint was picked, and how. `refusing`: something speaks against each of them."""
    load = endpoint.load
    how = "the client's session" if sticky else balancer.document.algorithm
    well = "healthy" if endpoint.healthy else "not healthy"
    if endpoint.suspect:
        well = f"a suspect: its record vanished without a word, last {well}; used where there is nothing else"
    reason = f"{how}; {load.active} in flight here, {well}"
    if refusing:
        reason += "; something speaks against every one (ejected, refusing, its breaker open), and one is tried"
    via = f" via agent {endpoint.agent}" if endpoint.via else ""
    if endpoint.expected:
        via = f" of another mesh, which has to prove that it is {endpoint.expected}"
    return entry(
        policies.get("balance"),
        "balance",
        "balance",
        f"endpoint {endpoint.id} at {endpoint.address}:{endpoint.port}{via}",
        reason,
    )


def limits(
    policies: Policies, timeouts: Timeouts, retry: RetryPolicy, forward: Forward | None, *, whole: bool
) -> list[Entry]:
    """The time limits and retries that apply. `whole`: one time for the whole request; `forward` has what a rule puts
    in their place."""
    own = forward.limits if forward is not None else None
    request_s, try_s = timeouts.request_s, timeouts.try_s
    if own is not None:
        request_s, try_s = own.request_s or request_s, own.try_s or try_s
        whole = whole or own.request_s > 0
    times = ", ".join(
        f"{name} {value:g} s" if value else f"{name} unlimited"
        for name, value in (
            ("connect", timeouts.connect_s),
            ("try", try_s),
            ("request", request_s),
            ("idle", timeouts.idle_s),
        )
    )
    covers = "whole request" if whole else "request sent to first byte of the answer"
    within = "within the service's retry budget"
    rule = forward is not None and forward.retry is not None
    kind = "route" if rule else "retry"
    timing = "timeout" if own is None else "route"
    names = " and ".join([name for name, has in (("request", own.request_s), ("try", own.try_s)) if has]) if own else ""
    whose = f"; the rule's own {names}" if names else ""
    return [
        entry(policies.get(timing), "timeout", timing, times, f"`request` covers: {covers}{whose}"),
        entry(
            policies.get(kind),
            "retry",
            kind,
            f"up to {retry.attempts} attempts",
            f"the rule's own, {within}" if rule else within,
        ),
    ]


def retried(policies: Policies, failure: Failure, reason: str, verdict: Again | Enough) -> Entry:
    """What became of a failed attempt."""
    decision = f"again after {verdict.delay_s * 1000:.0f} ms" if isinstance(verdict, Again) else "no further attempt"
    told = f"{failure.name.lower()}: {reason}; {verdict.reason}"
    return entry(policies.get("retry"), "retry", "retry", decision, told)


def way_out(policies: Policies, way: Forward | Respond, reason: str) -> Entry:
    """Where a request goes that was not let in."""
    if isinstance(way, Respond):
        decision = f"respond {way.status}"
    else:
        place = " ".join(part for part in (way.service or "", str(way.subset or "")) if part)
        decision = f"goes to {place or 'the service'} instead"
    return entry(policies.get("shed"), "shed", "shed", decision, reason)


def stored(policies: Policies, name: str, url: str) -> Entry:
    """It was stored for later."""
    decision = f"stored as {name}" if name else "stored"
    return entry(policies.get("shed"), "answer", "shed", decision, f"in {url}; `shoal replay` sends it")


def hedged(policies: Policies, first: Endpoint, second: Endpoint, after_s: float) -> Entry:
    """A second attempt beside the first."""
    reason = f"{first.id} has not answered for {after_s * 1000:.0f} ms"
    return entry(policies.get("retry"), "retry", "retry", f"hedge at endpoint {second.id}", reason)


def refused(policies: Policies, refusal: Refusal, by: InForce | None = None) -> Entry:
    """The mesh's own answer. `by`: the document behind it, where several of its kind apply."""
    kind = refusal.policy
    return entry(by or policies.get(kind), "answer", kind, f"answer {refusal.status}", refusal.reason)


def picked(endpoint: Endpoint) -> dict[str, Any]:
    """Where an explanation ends."""
    return {
        "service": endpoint.service,
        "id": endpoint.id,
        "address": endpoint.address,
        "port": endpoint.port,
        "version": endpoint.version,
        "zone": endpoint.zone,
        "via": endpoint.agent if endpoint.via else "",
        "expected": endpoint.expected,
        "suspect": endpoint.suspect,
    }


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


def direct_answer(found: Redirect | Respond) -> tuple[list[bytes], bytes, int]:
    """Header lines, body and status of an answer that a route gives by itself."""
    fields = [b"server: shoal\r\n", b"x-shoal-policy: route\r\n"]
    if isinstance(found, Redirect):
        fields.append(b"location: %b\r\n" % found.location.encode("latin-1", "replace"))
        return fields, b"", found.status
    fields += header_lines(found.headers)
    return fields, found.body, found.status
