"""Where documents send requests, and copies of them: what has to be there for them to do anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from policies.kinds.breaker.document import Breaker
from policies.kinds.route.document import Route
from policies.kinds.shadow.document import Shadow
from policies.kinds.shed.document import Shed
from policies.language.document import Document
from policies.language.names import parse_service
from policies.language.plain import below

SERVED = "what goes there is answered with 503"
OTHERS = "its share goes to the others"
FALLBACK = "the fallback can take nothing over"
WAY_OUT = "what is too much has no way out there"
COPIED = "nothing is copied there"


class Place(NamedTuple):
    """Instances that a document leads to."""

    path: str
    """In the document."""
    means: str
    """What follows when there are none."""
    hard: bool
    """Whether requests fail then."""
    service: str = ""
    """Empty: the service itself."""
    version: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    zone: str = ""
    healthy: bool = False
    """Whether ill ones are as good as none."""


def places(document: Document) -> Iterator[Place]:
    """Every place that a document names."""
    if isinstance(document, Route):
        yield from _of_route(document)
    elif isinstance(document, Breaker) and document.fallback is not None:
        fallback = document.fallback
        if fallback.service or fallback.version:
            yield Place("$.fallback", FALLBACK, False, _service(fallback.service), fallback.version)
    elif isinstance(document, Shed):
        for n, way in enumerate(document.instead):
            if way.service or way.version or way.zone:
                where = below("$", "instead", n)
                yield Place(where, WAY_OUT, False, _service(way.service), way.version, zone=way.zone)
    elif isinstance(document, Shadow):
        yield from _of_shadow(document)


def _of_route(route: Route) -> Iterator[Place]:
    if route.active:
        yield Place("$.active", SERVED, True, version=route.active)
    if route.standby:
        yield Place("$.standby", "there is nothing to switch to", False, version=route.standby)
    for n, rule in enumerate(route.rules):
        for m, target in enumerate(rule.split):
            if target.weight > 0:
                where = below("$", "rules", n, "split", m)
                labels = tuple(sorted(target.labels.items()))
                others = rule.empty == "others"
                means, service = OTHERS if others else SERVED, _service(target.service)
                yield Place(where, means, not others, service, target.version, labels, healthy=others)


def _of_shadow(shadow: Shadow) -> Iterator[Place]:
    for n, copy in enumerate(shadow.copies):
        yield Place(below("$", "copies", n), COPIED, False, _service(copy.to), copy.version)
    if shadow.compare is not None:
        compare = shadow.compare
        yield Place("$.compare.candidate", COPIED, False, _service(compare.candidate.to), compare.candidate.version)
        if compare.secondary is not None:
            to, version = compare.secondary.to, compare.secondary.version
            yield Place("$.compare.secondary", COPIED, False, _service(to), version)
        if compare.primary:
            yield Place("$.compare.primary", "nothing is compared", False, version=compare.primary)


def _service(name: str) -> str:
    return parse_service(name) if name else ""
