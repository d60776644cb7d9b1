"""Documents that are valid, and hardly meant: they match nothing, or lead nowhere; and those that are not in force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from agent.findings.finding import Finding, Severity, named
from agent.findings.of_mesh.enforcing import Text, silence, unable
from agent.findings.of_mesh.facts import Facts
from agent.findings.of_mesh.places import OTHERS, SERVED, Place, places
from policies.catalogue import BY_NAME, parse
from policies.kinds.route.document import Route
from policies.language.claims import claims_named
from policies.language.document import Document, Invalid, meant
from policies.language.names import candidates, matches
from registry.census import Census
from registry.records import Instance

BUNDLES: Final = "rego"
"""The kind whose keys name bundles, and no services."""


class Written(NamedTuple):
    """A valid document, and whom it is for."""

    kind: str
    pattern: str
    document: Document
    in_force_for: tuple[str, ...]
    """Services that have instances, or that a document alone makes."""

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.pattern}"


def of_documents(facts: Facts) -> Iterator[Finding]:
    """What documents would do, were they in force; whether they are, others ask."""
    census = facts.census
    known = _Known(facts)
    for written in _written(census, known):
        yield from _matching(written, known)
        if written.document.mode == "enforce":
            for place in places(written.document):
                yield from _leading(written, place, known)


def of_claims(facts: Facts) -> Iterator[Finding]:
    """Conditions that hold for nobody: a claim is named, and nobody verifies tokens for the service."""
    known = _Known(facts)
    all_written = list(_written(facts.census, known))
    verified = {
        service
        for each in all_written
        if each.kind == "authn" and each.document.mode == "enforce"
        for service in each.in_force_for
    }
    for written in all_written:
        bare = [service for service in written.in_force_for if service not in verified]
        if written.kind == "authn" or not bare:
            continue
        for path in claims_named(written.document):
            what = f"names a claim, but no authn document covers {named(bare)}: it holds for nobody"
            put = f"put an authn document for {named(bare)}, or ask for a header or a cookie"
            yield Finding("no-claims", "warning", f"{written.key} {path}", what, put)


def of_shares(facts: Facts) -> Iterator[Finding]:
    """Of these, what becomes of requests now: what a route gives to nobody, or to the others of a split."""
    for found in of_documents(facts):
        leads_nowhere = found.id in ("no-such-version", "no-such-service") and found.where.startswith("route/")
        if leads_nowhere and found.what.endswith((SERVED, OTHERS)):
            yield found


def of_refusals(facts: Facts) -> Iterator[Finding]:
    """What was put and is not in force, everywhere or on some hosts."""
    census = facts.census
    for (kind, service), refused in sorted(census.rejected.items()):
        what = f"refused: {refused.path}: {refused.reason}"
        yield Finding(
            "refused", "error", f"{kind}/{service}", what, "mend it and put it again, or `shoal policy rm` it"
        )
    for (kind, service), refused in sorted(census.audits_rejected.items()):
        what = f"refused: {refused.path}: {refused.reason}"
        say = f"mend it and put it again, or `shoal policy rm --audit {kind} {service}`"
        yield Finding("refused", "error", f"audits/{kind}/{service}", what, say)
    for (kind, service), misnamed in sorted(census.misnamed.items()):
        if (kind, service) not in census.rejected:
            remove = f"put it under the right key, and remove it: shoal policy rm '{kind}' '{service}'"
            yield Finding("refused", "error", f"{kind}/{service}", f"key: {misnamed.reason}", remove)
    for (kind, service), held in sorted(census.held.items()):
        say = "if etcd is right, `shoal mesh accept`; else put it again"
        yield Finding("held", "error", f"{kind}/{service}", f"held against what etcd says: {held.reason}", say)
    documents = [Text(each.kind, each.service, each.text) for each in census.policies.values()]
    for lacking in unable(census, documents):
        yield Finding("not-enforced", "error", lacking.policy, str(lacking), "upgrade these agents, or leave that out")
    if said := silence(census):
        yield Finding("version-unknown", "info", facts.mesh, said, "upgrade them")


def of_audits(facts: Facts) -> Iterator[Finding]:
    """Documents that are only watched: two for the same name, those that are enforced by now, and those for nobody."""
    census = facts.census
    known = _Known(facts)
    for (kind, pattern), policy in sorted(census.audits.items()):
        beside = census.policies.get((kind, pattern))
        document = parse(kind, pattern, beside.text) if beside is not None else None
        where = f"audits/{kind}/{pattern}"
        if isinstance(document, Document) and document.mode == "audit":
            what = f"policies/{kind}/{pattern} is in audit mode too, and is not watched while this one stands"
            yield Finding("two-audits", "warning", where, what, "keep one of the two")
        elif document is not None and _says_the_same(document, parse(kind, pattern, policy.text)):
            what = f"it says what policies/{kind}/{pattern} says, which is enforced: there is nothing to watch"
            yield Finding("watched-in-vain", "warning", where, what, f"`shoal policy rm --audit {kind} '{pattern}'`")
        if kind != BUNDLES and not any(matches(pattern, service) for service in known.services):
            what = "matches no service that has instances"
            yield Finding("matches-nothing", "warning", where, what, "see `shoal services`")


def _says_the_same(enforced: Document | Invalid, watched: Document | Invalid) -> bool:
    if isinstance(enforced, Invalid) or isinstance(watched, Invalid):
        return False
    one, other = (
        msgspec.structs.replace(each, mode="enforce", description="", kind="", service="")
        for each in (enforced, watched)
    )
    return one == other


class _Known:
    """Names of services, and what leads to none."""

    def __init__(self, facts: Facts) -> None:
        census = facts.census
        self.instances: dict[str, list[Instance]] = {}
        self.healthy: dict[str, list[Instance]] = {}
        for (service, id), instance in census.instances.items():
            self.instances.setdefault(service, []).append(instance)
            health = census.health.get((service, id))
            if health is None or health.healthy:
                self.healthy.setdefault(service, []).append(instance)
        self.made = {service for service in _exact(census, "route") if _makes(census, service)}
        """Services that have no instances, and whose route leads elsewhere: second names; and those of other meshes."""
        self.made.update(_exact(census, "import"))
        suspected = {service for service, _ in facts.suspects}
        """Of these nothing stands in etcd, and requests are sent to them all the same."""
        self.made |= suspected - self.instances.keys()
        self.services = sorted(self.instances.keys() | self.made)


def _exact(census: Census, wanted: str) -> Iterator[str]:
    return (pattern for kind, pattern in census.policies if kind == wanted and "*" not in pattern)


def _makes(census: Census, service: str) -> bool:
    route = parse("route", service, census.policies["route", service].text)
    return isinstance(route, Route) and any(
        rule.redirect is not None or rule.respond is not None or any(target.service for target in rule.split)
        for rule in route.rules
    )


def _written(census: Census, known: _Known) -> Iterator[Written]:
    parsed = {place: parse(*place, policy.text) for place, policy in sorted(census.policies.items())}
    good = {place: document for place, document in parsed.items() if isinstance(document, Document)}
    watched = {place: document for place, document in good.items() if document.mode == "audit"}
    enforced = {place: each for place, each in parsed.items() if place not in watched}  # what is refused may be either
    for (kind, pattern), document in good.items():
        beside = watched if (kind, pattern) in watched else enforced
        yield Written(kind, pattern, document, tuple(_covered(kind, pattern, beside, known.services)))


def _covered(
    kind: str, pattern: str, policies: Mapping[tuple[str, str], object], services: Iterable[str]
) -> Iterator[str]:
    """`policies`: those that this one competes with."""
    for service in services:
        if not matches(pattern, service):
            continue
        winner = next(wider for wider in candidates(service) if (kind, wider) in policies)
        if winner == pattern or BY_NAME[kind].every_level:
            yield service


def _matching(written: Written, known: _Known) -> Iterator[Finding]:
    pattern = written.pattern
    if written.in_force_for or written.kind == BUNDLES:
        return
    if covered := [service for service in known.services if matches(pattern, service)]:
        have = "have" if len(covered) > 1 else "has"
        what = f"in force for nobody: {named(covered)} {have} a more specific {written.kind}"
        yield Finding(
            "overridden", "info", written.key, what, f"`shoal policy rm {written.kind} '{pattern}'`, if it is left over"
        )
    elif "*" in pattern:
        what = f"matches no service{meant(pattern[2:], {service.partition('.')[2] for service in known.services})}"
        yield Finding("matches-nothing", "warning", written.key, what, "`shoal services` lists those that there are")
    else:
        what = f"there is no service {pattern}{meant(pattern, known.services)}"
        yield Finding("matches-nothing", "warning", written.key, what, "`shoal services` lists those that there are")


def _leading(written: Written, place: Place, known: _Known) -> Iterator[Finding]:
    where = f"{written.key} {place.path}"
    severity: Severity = "error" if place.hard else "warning"
    if place.service and place.service not in known.instances:
        if place.service not in known.made:
            what = f"there is no service {place.service}{meant(place.service, known.services)}: {place.means}"
            yield Finding("no-such-service", severity, where, what, "start one, or name another: `shoal services`")
        return
    lacking: dict[str, list[str]] = {}
    for service in (place.service,) if place.service else written.in_force_for:
        instances = known.instances.get(service, [])
        able = known.healthy.get(service, []) if place.healthy else instances
        if instances and not any(_selects(place, instance) for instance in able):
            lacking.setdefault(_lacks(place, instances), []).append(service)
    for lack, services in lacking.items():
        what = f"no {'healthy ' * place.healthy}instance of {named(services)} {lack}: {place.means}"
        yield Finding(
            "no-such-version", severity, where, what, f"start one, or name another: `shoal instances {services[0]}`"
        )


def _selects(place: Place, instance: Instance) -> bool:
    return (
        (not place.version or instance.version == place.version)
        and (not place.zone or instance.zone == place.zone)
        and all(instance.metadata.get(name) == value for name, value in place.labels)
    )


def _lacks(place: Place, instances: Iterable[Instance]) -> str:
    """What they would have to have, and what they have."""
    wanted = [f"version {place.version}"] * bool(place.version) + [f"zone {place.zone}"] * bool(place.zone)
    wanted += [f"{name}={value}" for name, value in place.labels]
    versions = sorted({instance.version for instance in instances} - {""})
    there = f" (there {'are' if len(versions) > 1 else 'is'} {named(versions)})" if place.version and versions else ""
    return f"has {' and '.join(wanted)}{there}" if wanted else "is there"
