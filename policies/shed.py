"""`shed`: serving some well rather than all badly, and where the others go.

Decided by the agent beside the instances, where the load is. Callers' agents are told, and take the ways out.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.decision import Forward, Respond, Subset
from policies.document import Document, Fault, below
from policies.duration import Duration, seconds
from policies.limiter import Rules
from policies.matching import Match, check_match, compile_match
from policies.names import parse_pattern, parse_service
from policies.rules import DirectResponse, check_headers
from policies.shedding import NAMES, Keep, Plan, Priority
from policies.topic import Topic, parse_topic

_FIELD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}\Z")
_OURS: Final = ("x-shoal-", "content-", "transfer-", "connection")


class Adaptive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A limit that finds itself; each worker of the agent has its own."""

    initial: Annotated[int, Meta(ge=1, le=100_000, description="Requests under way at first")] = 20
    least: Annotated[int, Meta(ge=1, le=100_000)] = 2
    most: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    queue_time: Annotated[
        Duration | None, Meta(description="Waiting longer than this is too long, however few wait")
    ] = None

    def check(self, path: str) -> None:
        """Raises Fault."""
        if not self.least <= self.initial <= self.most:
            raise Fault(
                below(path, "initial"), f"{self.initial} is not from least ({self.least}) to most ({self.most})"
            )
        if self.queue_time is not None:
            _duration(below(path, "queue_time"), self.queue_time, 0.001, 60)


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The instances' own word: a header of their answers with a number."""

    header: str
    most: Annotated[float, Meta(gt=0, le=1e9, description="Beyond this less is let in")]

    def check(self, path: str) -> None:
        """Raises Fault."""
        if not _FIELD.match(self.header) or self.header.lower().startswith(_OURS):
            raise Fault(
                below(path, "header"), f"{self.header[:60]!r} is no header that a service could tell its load in"
            )


class PriorityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests that match are so important."""

    priority: Literal["critical", "high", "normal", "low", "bulk"]
    match: Match = Match()

    def check(self, path: str) -> None:
        """Raises Fault."""
        check_match(self.match, below(path, "match"), frozenset())


class Way(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way out: another service, other instances, a topic, or an answer."""

    service: Annotated[str, Meta(description="Another service")] = ""
    version: Annotated[str, Meta(max_length=128, description="Instances of this version")] = ""
    zone: Annotated[str, Meta(max_length=128, description="Instances of another zone or datacenter")] = ""
    topic: Annotated[Topic | None, Meta(description="Stored, answered with 202, and sent later")] = None
    respond: DirectResponse | None = None

    def check(self, path: str, own: str) -> None:
        """Raises Fault."""
        leads = bool(self.service or self.version or self.zone)
        if leads + (self.respond is not None) + (self.topic is not None) != 1:
            raise Fault(path, "one of: somewhere else (service, version, zone), a topic, or an answer to respond with")
        if self.topic is not None:
            self.topic.check(below(path, "topic"))
        if self.service:
            try:
                named = parse_service(self.service)
            except ValueError as error:
                raise Fault(below(path, "service"), str(error)) from None
            if own and named == parse_pattern(own) and not self.version and not self.zone:
                raise Fault(below(path, "service"), f"{named!r} is this service itself, which is overloaded")
        if self.respond is not None:
            check_headers(self.respond.headers, below(path, "respond", "headers"))


class Shed(Document, frozen=True, kw_only=True):
    """The document."""

    adaptive: Annotated[
        Adaptive | None, Meta(description="A limit that finds itself; without another one, the default")
    ] = None
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000, description="A fixed limit, for the agent")] | None = None
    cpu_percent: Annotated[float, Meta(gt=0, le=100, description="Of the host; beyond it less is let in")] | None = None
    load: Annotated[Load | None, Meta(description="The instances' own word")] = None
    priorities: Annotated[tuple[PriorityRule, ...], Meta(max_length=64)] = ()
    believe_header: Annotated[bool, Meta(description="Whether x-shoal-priority of a request counts")] = True
    instead: Annotated[tuple[Way, ...], Meta(max_length=8, description="Ways out, in order")] = ()
    retry_after: Annotated[Duration, Meta(description="What callers are told")] = "1s"

    def check(self) -> None:
        """Everything the types let pass."""
        if self.adaptive is not None:
            if self.concurrency is not None:
                raise Fault("$.concurrency", "a fixed limit beside one that finds itself ($.adaptive); take one out")
            self.adaptive.check("$.adaptive")
        if self.load is not None:
            self.load.check("$.load")
        takes_all = ""
        for n, rule in enumerate(self.priorities):
            path = below("$", "priorities", n)
            if takes_all:
                raise Fault(path, f"never reached: {takes_all} matches every request")
            rule.check(path)
            if rule.match == Match():
                takes_all = path
        for n, way in enumerate(self.instead):
            path = below("$", "instead", n)
            if n and self.instead[n - 1].respond is not None:
                raise Fault(path, f"never reached: $.instead[{n - 1}] answers")
            way.check(path, self.service)
        _duration("$.retry_after", self.retry_after, 1, 3600)


def _duration(path: str, value: float | str, least: float, most: float) -> None:
    try:
        length = seconds(value)
    except ValueError as error:
        raise Fault(path, str(error)) from None
    if not least <= length <= most:
        raise Fault(path, f"{length:g} s; from {least:g} s to {most:g} s")


def compile(document: Shed, workers: float = 1.0, service: str = "") -> Plan:
    """A checked document, ready to be asked. `workers`: this worker's part of the agent, 0 to 1."""
    adaptive = document.adaptive or Adaptive()
    rules = Rules(
        fixed=max(1, round(document.concurrency * workers)) if document.concurrency is not None else 0,
        initial=adaptive.initial,
        least=adaptive.least,
        most=adaptive.most,
        queue_s=seconds(adaptive.queue_time) if adaptive.queue_time is not None else 0.0,
        cpu_percent=document.cpu_percent or 0.0,
        most_load=document.load.most if document.load is not None else 0.0,
    )
    return Plan(
        rules,
        priorities=[
            Priority(compile_match(rule.match, {}), NAMES.index(rule.priority)) for rule in document.priorities
        ],
        believes=document.believe_header,
        ways=[_way(way, service) for way in document.instead],
        retry_after_s=max(1, round(seconds(document.retry_after))),
        load_header=document.load.header.lower().encode() if document.load is not None else b"",
    )


def _way(way: Way, service: str) -> Forward | Respond | Keep:
    if way.topic is not None:
        topic = way.topic
        url = parse_topic(topic.url, service).url
        order = {
            "url": url,
            "user": topic.user,
            "secret": msgspec.to_builtins(topic.secret) if topic.secret is not None else None,
        }
        without = frozenset(name.lower().encode() for name in topic.without)
        return Keep(url, order, frozenset(method.encode() for method in topic.methods), without)
    if way.respond is not None:
        answer = way.respond
        return Respond(answer.status, tuple(answer.headers.items()), answer.body.encode())
    subset = Subset(way.version or None, zone=way.zone or None) if way.version or way.zone else None
    return Forward(service=parse_service(way.service) if way.service else None, subset=subset)
