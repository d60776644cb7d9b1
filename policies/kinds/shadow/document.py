"""`shadow`: copies of requests to other services and versions; answers are thrown away, or compared.

Whoever asked gets the answer to the request itself, and never waits for a copy. To compare, in the manner of Diffy, a
request goes to two places besides: once more to the version that serves (the secondary) and to a candidate. What
differs between two that are the same is noise; what differs at the candidate beyond that is a regression.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.kinds.shadow.fieldpath import FieldSet, check_field, parse_field
from policies.language.document import Document
from policies.language.duration import Duration, positive
from policies.language.matching import Match, check_ungrouped
from policies.language.names import parse_pattern, parse_service
from policies.language.plain import Flaw, below, read_at
from policies.language.user import Sticky, check_share

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 section 9.2.1), without TRACE, which nobody serves."""


MAX_BODY_BYTES: Final = 1024 * 1024
MAX_TIMEOUT_S: Final = 60.0
Field = Annotated[str, Meta(min_length=1, max_length=512)]
Fields = Annotated[tuple[Field, ...], Meta(max_length=256)]
Version = Annotated[str, Meta(max_length=128)]
Percent = Annotated[float, Meta(gt=0, le=100)]


class Sampled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests, and how long a copy may take."""

    percent: Annotated[Percent, Meta(description="Share of those that match")] = 100
    match: Annotated[Match, Meta(description="Which requests; default all")] = Match()
    sticky: Annotated[Sticky | None, Meta(description="The same users are always in the share")] = None
    writes: Annotated[bool, Meta(description="Also methods other than GET, HEAD and OPTIONS")] = False
    timeout: Annotated[Duration, Meta(description="A copy that takes longer is given up")] = "5s"

    def check_sample(self, path: str) -> None:
        """Raises Flaw."""
        check_ungrouped(self.match, below(path, "match"))
        for n, method in enumerate(self.match.method):
            if not self.writes and method not in READS:
                raise Flaw(below(path, "match", "method", n), f'{method} may change something; say "writes": true')
        if self.writes and self.match.method and READS.issuperset(self.match.method):
            raise Flaw(below(path, "writes"), f"does nothing: {', '.join(self.match.method)} change nothing")
        check_share(self.sticky, self.percent, below(path, "sticky"))
        positive(below(path, "timeout"), self.timeout, MAX_TIMEOUT_S)


class Copy(Sampled, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One place that requests are copied to."""

    to: Annotated[str, Meta(description="Another service")] = ""
    version: Annotated[Version, Meta(description="Instances of this version only")] = ""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Instances that are asked as well."""

    to: Annotated[str, Meta(description="Another service")] = ""
    version: Annotated[Version, Meta(description="Instances of this version only")] = ""


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a field has to exceed, all of it, to count as a regression."""

    relative_percent: Annotated[float, Meta(ge=0, le=100, description="|raw - noise| / (raw + noise)")] = 20
    absolute_percent: Annotated[float, Meta(ge=0, le=100, description="|raw - noise| / requests")] = 0.03
    luck_percent: Annotated[
        float, Meta(gt=0, le=100, description="How likely luck alone may make an equal candidate look so different")
    ] = 0.1
    min_requests: Annotated[int, Meta(ge=1, le=10_000_000, description="Fewer compared say nothing")] = 100


class Compare(Sampled, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Regression testing: the answers of primary, secondary and candidate, field by field."""

    candidate: Annotated[Place, Meta(description="What is tested")]
    primary: Annotated[Version, Meta(description="The version that serves; only its answers are compared")] = ""
    secondary: Annotated[Place | None, Meta(description="Who shows the noise; default the primary's version")] = None
    ignore: Annotated[Fields, Meta(description="Fields that are not compared, with all below them")] = ()
    unordered: Annotated[Fields, Meta(description="Lists in JSON bodies whose order says nothing")] = ()
    redact: Annotated[Fields, Meta(description="Fields whose values are never kept, with all below them")] = ()
    thresholds: Thresholds = Thresholds()
    max_answer: Annotated[
        int, Meta(ge=1024, le=MAX_BODY_BYTES, description="Bytes of an answer's body that are compared")
    ] = 65536
    max_samples: Annotated[int, Meta(ge=0, le=20, description="Examples that are kept of a field")] = 3

    def check(self, path: str) -> None:
        """Raises Flaw."""
        self.check_sample(path)
        candidate, secondary = self.candidate, self.secondary
        _check_place(below(path, "candidate"), candidate.to, candidate.version)
        if not candidate.to and not self.primary:
            raise Flaw(
                below(path, "primary"), "missing: with two versions of one service say which of them serves already"
            )
        if not candidate.to and candidate.version == self.primary:
            raise Flaw(below(path, "candidate", "version"), f"{self.primary!r} is the primary; it has to be another")
        if secondary is not None:
            _check_place(below(path, "secondary"), secondary.to, secondary.version)
            if secondary == candidate:
                raise Flaw(below(path, "secondary"), "the candidate itself: every regression would pass for noise")
            if not secondary.to and secondary.version == self.primary:
                raise Flaw(below(path, "secondary"), "says nothing that is not so: it is the primary's version anyway")
        for name, fields in (("ignore", self.ignore), ("unordered", self.unordered), ("redact", self.redact)):
            for n, field in enumerate(fields):
                check_field(field, below(path, name, n))
        ignored = FieldSet(self.ignore)
        for n, field in enumerate(self.unordered):
            _check_unordered(field, ignored, below(path, "unordered", n))
        if self.redact and not self.max_samples:
            raise Flaw(below(path, "redact"), "does nothing with max_samples 0: no value is kept")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What copies may cost; what goes beyond is not copied, and counted."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000, description="Copies under way at a time, in a worker")] = 32
    max_body: Annotated[
        int, Meta(ge=0, le=MAX_BODY_BYTES, description="Bytes of a request's body; with a larger one it is not copied")
    ] = 65536


class Shadow(Document, frozen=True, kw_only=True):
    """The document."""

    copies: Annotated[tuple[Copy, ...], Meta(max_length=16, description="Where requests are copied to")] = ()
    compare: Annotated[Compare | None, Meta(description="Regression testing")] = None
    limits: Limits = Limits()

    def check(self) -> None:
        """Everything the types let pass."""
        if not self.copies and self.compare is None:
            raise Flaw("$", "nothing is copied; one or both of copies and compare")
        seen: list[Copy] = []
        for n, copy in enumerate(self.copies):
            path = below("$", "copies", n)
            _check_place(path, copy.to, copy.version)
            copy.check_sample(path)
            if copy in seen:
                raise Flaw(path, f"the same as copies[{seen.index(copy)}]; take one out")
            seen.append(copy)
            self._check_other(below(path, "to"), copy.to, copy.version)
        if self.compare is not None:
            self.compare.check("$.compare")
            candidate = self.compare.candidate
            self._check_other("$.compare.candidate.to", candidate.to, candidate.version)
        wanted = 2 if self.compare is not None else 0
        if self.limits.concurrency < max(wanted, 1):
            raise Flaw("$.limits.concurrency", "at least 2 to compare: a request goes to two places at a time")

    def _check_other(self, path: str, to: str, version: str) -> None:
        """Not the service itself, where a file says whose policy it is."""
        if to and not version and self.service and parse_pattern(self.service) == parse_service(to):
            raise Flaw(path, f"{to!r} is this service itself; name another, or a version")


def _check_unordered(field: str, ignored: FieldSet, path: str) -> None:
    steps = parse_field(field)
    if steps[0] != "$":
        raise Flaw(path, f"{field[:60]!r} is no list in a JSON body; write its place, such as $.items")
    if ignored.covers(steps):
        raise Flaw(path, f"does nothing: {field[:60]!r} is not compared, ignore says so")


def _check_place(path: str, to: str, version: str) -> None:
    if not to and not version:
        raise Flaw(path, "the service itself; name another service (to), a version, or both")
    if to:
        read_at(below(path, "to"), parse_service, to)
