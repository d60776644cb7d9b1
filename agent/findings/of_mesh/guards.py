"""What guards would refuse of what is so now: calls that were seen, and hops that cannot be TLS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agent.findings.finding import Finding, named
from agent.findings.of_mesh.facts import Facts
from policies.catalogue import parse
from policies.kind import Scope
from policies.kinds.authz.document import Authz
from policies.kinds.authz.graph import ANONYMOUS, NONE, in_own_names, may
from policies.kinds.isolation import decide as isolation
from policies.kinds.isolation.document import Isolation
from policies.kinds.tls import decide as tls
from policies.kinds.tls.document import TlsPolicy
from policies.language.names import candidates
from registry.census import Census
from registry.identity_records import Moment

NOT_READY: Final = "tls-not-ready"


class _Enforced:
    """Documents of one kind, each parsed once."""

    def __init__(self, census: Census, kind: str) -> None:
        parsed = {
            pattern: (policy.revision, parse(kind, pattern, policy.text))
            for (known, pattern), policy in census.policies.items()
            if known == kind
        }
        self.documents: dict[str, tuple[int, Any]] = {
            pattern: (revision, found)
            for pattern, (revision, found) in parsed.items()
            if isinstance(found, Isolation | TlsPolicy | Authz) and found.mode == "enforce"
        }

    def levels(self, service: str) -> list[tuple[str, int, Any]]:
        """Those that apply to a service, the most specific first."""
        found = [(pattern, self.documents.get(pattern)) for pattern in candidates(service)]
        return [(pattern, *each) for pattern, each in found if each is not None]


def of_isolation(facts: Facts) -> Iterator[Finding]:
    """Calls that agents have seen, and that a document cuts off."""
    enforced = _Enforced(facts.census, "isolation")
    cut: dict[str, list[str]] = {}
    for caller, services in sorted(facts.census.calls.items()):
        for service in sorted(services):
            for pattern, _, document in enforced.levels(service):
                if not isolation.compile(document, Scope(service, key=pattern)).sees(caller):
                    cut.setdefault(pattern, []).append(f"{caller or 'somebody unknown'} → {service}")
                    break
    for pattern, calls in cut.items():
        what = f"cuts off what was seen to be called: {named(calls)}"
        yield Finding(
            "isolated", "warning", f"isolation/{pattern}", what, "name the callers in $.allow, if they are to go on"
        )


def of_authz(facts: Facts) -> Iterator[Finding]:
    """Callers that agents have seen, and that rules let have nothing at all."""
    enforced = _Enforced(facts.census, "authz")
    denied: dict[str, list[str]] = {}
    for caller, services in sorted(facts.census.calls.items()):
        for service in sorted(services):
            own = facts.census.trust_domain
            levels = [(pattern, in_own_names(document, own)) for pattern, _, document in enforced.levels(service)]
            found = may(levels, caller or ANONYMOUS) if levels else None
            if found is not None and found.what == NONE:
                place = found.by[0].partition(":")[0]
                denied.setdefault(place, []).append(f"{caller or 'somebody unknown'} → {service}")
    for place, calls in denied.items():
        what = f"denies all of what was seen to be called: {named(calls)}"
        yield Finding("denied", "warning", place, what, "allow the callers in $.rules, if they are to go on")


def of_tls(facts: Facts) -> Iterator[Finding]:
    """Hops that cannot be TLS, where documents want nothing else."""
    enforced = _Enforced(facts.census, "tls")
    if not enforced.documents:
        return
    strict: dict[str, tls.Tls] = {}
    for service in sorted({service for service, _ in facts.census.instances}):
        levels = [tls.Level(*level) for level in enforced.levels(service)]
        found = tls.combine(levels) if levels else None
        if found is not None and found.mode == tls.STRICT:
            strict[service] = found
    if not strict:
        return
    lacks = _Lacks(facts, strict)
    say = "wait for certificates (`shoal ca status`), with permissive until then"
    for (pattern, host), services in lacks.of_hosts().items():
        what = f"{host} {named(services)}: strict refuses what it is asked, and what it asks"
        yield Finding(NOT_READY, "error", f"tls/{pattern}", what, say)
    for pattern, instances in lacks.of_instances().items():
        what = f"no agent stands before {named(instances)}, and no origin says what they speak: callers get 503"
        yield Finding(NOT_READY, "error", f"tls/{pattern}", what, "say it in $.origin, or register them with an agent")


class _Lacks:
    """What is not there yet for services that are strict."""

    def __init__(self, facts: Facts, strict: dict[str, tls.Tls]) -> None:
        self._census = facts.census
        self._now = facts.now
        self._strict = strict

    def of_hosts(self) -> dict[tuple[str, str], list[str]]:
        """By deciding pattern and host: what the host lacks."""
        found: dict[tuple[str, str], list[str]] = {}
        anywhere = _pattern(next(iter(self._strict.values())))
        for host in sorted(self._census.agents):
            if reason := self._own(host):
                found[anywhere, host] = [reason]
        for (service, _), instance in sorted(self._census.instances.items()):
            decides = self._strict.get(service)
            host = instance.agent
            if decides is None or not host or (anywhere, host) in found:
                continue
            holds = self._census.holds.get(host)
            if holds is None or not self._valid(holds.services.get(service)):
                lacking = found.setdefault((_pattern(decides), host), [])
                reason = f"holds no certificate of {service}"
                if reason not in lacking:
                    lacking.append(reason)
        return found

    def _own(self, host: str) -> str:
        holds, wanted = self._census.holds.get(host), self._census.bundle
        if holds is None or not self._valid(holds.agent):
            return "holds no certificate of its own"
        if wanted is not None and holds.bundle < wanted:
            return f"runs bundle {holds.bundle} of roots, and {wanted} stands"
        return ""

    def _valid(self, until: Moment | None) -> bool:
        return until is not None and until.timestamp() > self._now

    def of_instances(self) -> dict[str, list[str]]:
        """By deciding pattern: instances that no agent stands before."""
        found: dict[str, list[str]] = {}
        for (service, identity), instance in sorted(self._census.instances.items()):
            decides = self._strict.get(service)
            if decides is not None and not instance.agent and decides.origin is None:
                found.setdefault(_pattern(decides), []).append(f"{service}/{identity}")
        return found


def _pattern(decides: tls.Tls) -> str:
    return decides.reason_policy.partition("/")[2].partition(" ")[0]
