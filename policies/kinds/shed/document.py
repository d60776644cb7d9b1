"""`shed`: serving some well rather than all badly, and where the others go.

Decided by the agent beside the instances, where the load is. Callers' agents are told, and take the ways out.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from policies.kinds.shed.topic import Topic
from policies.language.answer import DirectResponse, check_answer
from policies.language.document import Document
from policies.language.duration import Duration, bounded
from policies.language.matching import Match, check_match
from policies.language.names import parse_pattern, parse_service
from policies.language.plain import Flaw, below, read_at

NAMES: Final = ("critical", "high", "normal", "low", "bulk")
"""From the most important one; the index is the priority."""


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
        """Raises Flaw."""
        if not self.least <= self.initial <= self.most:
            raise Flaw(below(path, "initial"), f"{self.initial} is not from least ({self.least}) to most ({self.most})")
        if self.queue_time is not None:
            bounded(below(path, "queue_time"), self.queue_time, 0.001, 60)


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The instances' own word: a header of their answers with a number."""

    header: str
    most: Annotated[float, Meta(gt=0, le=1e9, description="Beyond this less is let in")]

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if not _FIELD.match(self.header) or self.header.lower().startswith(_OURS):
            raise Flaw(
                below(path, "header"), f"{self.header[:60]!r} is no header that a service could tell its load in"
            )


class PriorityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests that match are so important."""

    priority: Literal["critical", "high", "normal", "low", "bulk"]
    match: Match = Match()

    def check(self, path: str) -> None:
        """Raises Flaw."""
        check_match(self.match, below(path, "match"), frozenset())


class Way(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way out: another service, other instances, a topic, or an answer."""

    service: Annotated[str, Meta(description="Another service")] = ""
    version: Annotated[str, Meta(max_length=128, description="Instances of this version")] = ""
    zone: Annotated[str, Meta(max_length=128, description="Instances of another zone or datacenter")] = ""
    topic: Annotated[Topic | None, Meta(description="Stored, answered with 202, and sent later")] = None
    respond: DirectResponse | None = None

    def check(self, path: str, own: str) -> None:
        """Raises Flaw."""
        leads = bool(self.service or self.version or self.zone)
        if leads + (self.respond is not None) + (self.topic is not None) != 1:
            raise Flaw(path, "one of: somewhere else (service, version, zone), a topic, or an answer to respond with")
        if self.topic is not None:
            self.topic.check(below(path, "topic"))
        if self.service:
            named = read_at(below(path, "service"), parse_service, self.service)
            if own and named == parse_pattern(own) and not self.version and not self.zone:
                raise Flaw(below(path, "service"), f"{named!r} is this service itself, which is overloaded")
        if self.respond is not None:
            check_answer(self.respond, below(path, "respond"))


class Shed(Document, frozen=True, kw_only=True):
    """The document."""

    adaptive: Annotated[
        Adaptive | None, Meta(description="A limit that finds itself; without another one, the default")
    ] = None
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000, description="A fixed limit, for the agent")] | None = None
    cpu_percent: Annotated[float, Meta(gt=0, le=100, description="Of the host; beyond it less is let in")] | None = None
    load: Annotated[Load | None, Meta(description="The instances' own word")] = None
    backpressure: Annotated[
        bool,
        Meta(description="Let in what can succeed while what it calls sheds load or has its breaker open"),
    ] = False
    priorities: Annotated[tuple[PriorityRule, ...], Meta(max_length=64)] = ()
    believe_header: Annotated[bool, Meta(description="Whether x-shoal-priority of a request counts")] = True
    instead: Annotated[tuple[Way, ...], Meta(max_length=8, description="Ways out, in order")] = ()
    retry_after: Annotated[Duration, Meta(description="What callers are told")] = "1s"

    def check(self) -> None:
        """Everything the types let pass."""
        if self.adaptive is not None:
            if self.concurrency is not None:
                raise Flaw("$.concurrency", "a fixed limit beside one that finds itself ($.adaptive); take one out")
            self.adaptive.check("$.adaptive")
        if self.load is not None:
            self.load.check("$.load")
        takes_all = ""
        for n, rule in enumerate(self.priorities):
            path = below("$", "priorities", n)
            if takes_all:
                raise Flaw(path, f"never reached: {takes_all} matches every request")
            rule.check(path)
            if rule.match == Match():
                takes_all = path
        for n, way in enumerate(self.instead):
            path = below("$", "instead", n)
            if n and self.instead[n - 1].respond is not None:
                raise Flaw(path, f"never reached: $.instead[{n - 1}] answers")
            way.check(path, self.service)
        bounded("$.retry_after", self.retry_after, 1, 3600)
