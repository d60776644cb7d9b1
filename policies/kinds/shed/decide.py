# mypyc: compiled
"""What a `shed` document is on the request path: the figures of its limit, who is how important, and the ways out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from policies.decision import Forward, Respond, Subset, respond
from policies.kind import ANYWHERE, Scope
from policies.kinds.shed.document import NAMES, Adaptive, Shed, Way
from policies.kinds.shed.figures import Figures
from policies.kinds.shed.topic import parse_topic
from policies.language.duration import seconds
from policies.language.matching import compile_match
from policies.language.names import parse_service
from policies.request import RequestView

HEADER: Final = "x-shoal-priority"
NORMAL: Final = 2


class Priority:
    """Requests that match are so important."""

    __slots__ = ("matches", "priority")

    def __init__(self, matches: Callable[[RequestView], bool] | None, priority: int) -> None:
        self.matches = matches
        self.priority = priority


class Store:
    """A way out: the request is stored in a topic, if it is one that may be."""

    __slots__ = ("methods", "order", "url", "without")

    def __init__(
        self, url: str, order: dict[str, Any], methods: frozenset[bytes], without: frozenset[bytes] = frozenset()
    ) -> None:
        self.url = url
        self.order = order
        """The topic, for who stores: url, user, secret."""
        self.methods = methods
        self.without = without
        """Header fields that are left out; lower case."""


class Compiled:
    """A document, ready to be asked."""

    __slots__ = ("_believes", "_priorities", "backpressure", "cpu", "load_header", "retry_after_s", "rules", "ways")

    def __init__(
        self,
        rules: Figures,
        *,
        priorities: Sequence[Priority] = (),
        believes: bool = True,
        ways: Sequence[Forward | Respond | Store] = (),
        retry_after_s: int = 1,
        load_header: bytes = b"",
        backpressure: bool = False,
    ) -> None:
        self.rules = rules
        self.backpressure = backpressure
        """Whether it counts that what the service calls has no room."""
        self.cpu = rules.cpu_percent > 0
        self._priorities = list(priorities)
        self._believes = believes
        self.ways = list(ways)
        """Where a request goes that is not let in, in order."""
        self.retry_after_s = retry_after_s
        self.load_header = load_header
        """Lower case; empty: instances say nothing."""

    def priority(self, request: RequestView) -> int:
        """An index of NAMES: the first rule that matches, else what the request says, else normal."""
        for rule in self._priorities:
            if rule.matches is None or rule.matches(request):
                return rule.priority
        if self._believes:
            said = request.header(HEADER)
            if said is not None and said in NAMES:
                return NAMES.index(said)
        return NORMAL


def compile(document: Shed, scope: Scope = ANYWHERE) -> Compiled:
    """A checked document, ready to be asked."""
    adaptive = document.adaptive or Adaptive()
    rules = Figures(
        fixed=max(1, round(document.concurrency * scope.share)) if document.concurrency is not None else 0,
        initial=adaptive.initial,
        least=adaptive.least,
        most=adaptive.most,
        queue_s=seconds(adaptive.queue_time) if adaptive.queue_time is not None else 0.0,
        cpu_percent=document.cpu_percent or 0.0,
        most_load=document.load.most if document.load is not None else 0.0,
    )
    return Compiled(
        rules,
        priorities=[
            Priority(compile_match(rule.match, {}), NAMES.index(rule.priority)) for rule in document.priorities
        ],
        believes=document.believe_header,
        ways=[_way(way, scope.service) for way in document.instead],
        retry_after_s=max(1, round(seconds(document.retry_after))),
        load_header=document.load.header.lower().encode() if document.load is not None else b"",
        backpressure=document.backpressure,
    )


def _way(way: Way, service: str) -> Forward | Respond | Store:
    if way.topic is not None:
        topic = way.topic
        url = parse_topic(topic.url, service).url
        order = {
            "url": url,
            "user": topic.user,
            "secret": msgspec.to_builtins(topic.secret) if topic.secret is not None else None,
        }
        without = frozenset(name.lower().encode() for name in topic.without)
        return Store(url, order, frozenset(method.encode() for method in topic.methods), without)
    if way.respond is not None:
        return respond(way.respond)
    subset = Subset(way.version or None, zone=way.zone or None) if way.version or way.zone else None
    return Forward(service=parse_service(way.service) if way.service else None, subset=subset)
