"""Regression testing in the manner of Diffy: what differs at a candidate beyond what differs anyway.

A request was answered by a primary, by a secondary of the same version, and by a candidate. A field that differs
between primary and candidate counts as raw, one that differs between primary and secondary as noise.

Laws
- A field is a regression when raw > noise, |raw - noise| / (raw + noise) and |raw - noise| / requests are above their
  thresholds, and luck is not to blame. Were the candidate the same as the secondary, then of the requests at which
  exactly one of the two differs each would be the candidate's with a chance of one half. How likely that makes what was
  seen, or worse, is a binomial tail; with many fields to look at one of them will be unlucky, so the tail has to be
  smaller by their number (Bonferroni). A noisy field that was equal by luck whenever the secondary was asked is thereby
  not taken for a regression.
- Where one of the three has no answer, or an error where another has none, only that counts: the rest of such a
  request would be raw without a chance to be noise, or the other way round.
- Tallies add up: merging is associative and commutative, examples included (those of the smallest digests are kept,
  which is a random choice that everybody makes the same way).
- Tallies are bounded: fields, examples of each and their length.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from policies.kinds.shadow.answer import Answer
from policies.kinds.shadow.decide import CANDIDATE, PRIMARY, SECONDARY
from policies.kinds.shadow.difference import Comparer, Difference, Parsed, comparable
from policies.kinds.shadow.document import Compare, Thresholds
from policies.kinds.shadow.fieldpath import ANSWER, STATUS

__all__ = ["Tally", "Thresholds", "Verdict", "judge", "merge", "observe", "outcome", "report", "trimmed"]

MAX_FIELDS: Final = 1000
MAX_REQUEST: Final = 160
_STEPS: Final = 8
"""Buckets of latencies, for each doubling."""
_LEAST_S: Final = 1e-6
_EXACT: Final = 1000
Outcome: TypeAlias = Literal["equal", "regression", "unknown"]


class Example(msgspec.Struct, frozen=True, order=True):
    """What a field was at one request."""

    digest: int
    request: str
    primary: str
    candidate: str


class Field(msgspec.Struct):
    """At how many requests a field differed."""

    raw: int = 0
    """Between primary and candidate."""
    noise: int = 0
    """Between primary and secondary."""
    both: int = 0
    """Of these, at the same request."""
    examples: list[Example] = msgspec.field(default_factory=list)
    """Of raw, in order."""


class Tally(msgspec.Struct):
    """What was seen of one service under one document."""

    total: int = 0
    """Requests that were compared."""
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    """Requests that were not, by the reason."""
    fields: dict[str, Field] = msgspec.field(default_factory=dict)
    """Those that ever differed."""
    omitted: int = 0
    """Differences in fields beyond those that there is room for."""
    latency: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)
    """Answers by role and bucket."""
    max_samples: int = 3

    def skip(self, reason: str) -> None:
        """A request is not compared."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def time(self, role: str, latency_s: float) -> None:
        """An answer took so long."""
        buckets = self.latency.setdefault(role, {})
        bucket = round(_STEPS * math.log2(max(latency_s, _LEAST_S) / _LEAST_S))
        buckets[bucket] = buckets.get(bucket, 0) + 1

    def median_s(self, role: str) -> float | None:
        """The latency that half of a role's answers did not exceed, within 5%."""
        buckets = self.latency.get(role, {})
        left = sum(buckets.values()) / 2
        for bucket, count in sorted(buckets.items()):
            left -= count
            if left <= 0:
                return float(_LEAST_S * 2 ** (bucket / _STEPS))
        return None


class Compiled:
    """A document's `compare`, ready."""

    __slots__ = ("comparer", "max_samples", "primary", "thresholds")

    def __init__(self, compare: Compare) -> None:
        self.comparer = Comparer(compare.ignore, compare.redact, compare.unordered)
        self.max_samples = compare.max_samples
        self.thresholds = compare.thresholds
        self.primary = compare.primary


def observe(
    tally: Tally, rules: Compiled, request: str, identity: str, primary: Answer, secondary: Answer, candidate: Answer
) -> None:
    """Take three answers to a request in. `request` is shown beside examples, and is to hold no secrets."""
    raw, noise = differences(rules, primary, secondary, candidate)
    note(tally, request, identity, raw, noise)
    for role, answer in ((PRIMARY, primary), (SECONDARY, secondary), (CANDIDATE, candidate)):
        if not answer.error:
            tally.time(role, answer.latency_s)


def differences(
    rules: Compiled, primary: Answer, secondary: Answer, candidate: Answer
) -> tuple[dict[str, Difference], dict[str, Difference]]:
    """Raw and noise of one request. All the work is here, and nothing is changed: it may be done in a thread."""
    parsed = Parsed(primary)
    raw = rules.comparer.differences(parsed, Parsed(candidate))
    noise = rules.comparer.differences(parsed, Parsed(secondary))
    if not (comparable(primary, candidate) and comparable(primary, secondary)):
        raw = {name: found for name, found in raw.items() if name in (ANSWER, STATUS)}
        noise = {name: found for name, found in noise.items() if name in (ANSWER, STATUS)}
    return raw, noise


def note(tally: Tally, request: str, identity: str, raw: dict[str, Difference], noise: dict[str, Difference]) -> None:
    """Count what differed at one request."""
    tally.total += 1
    for name in [*raw, *(name for name in noise if name not in raw)]:
        field = tally.fields.get(name)
        if field is None:
            if len(tally.fields) >= MAX_FIELDS:
                tally.omitted += 1
                continue
            field = tally.fields[name] = Field()
        field.noise += name in noise
        if name not in raw:
            continue
        field.raw += 1
        field.both += name in noise
        if tally.max_samples:
            digest = hashlib.blake2b(f"{identity}\0{name}".encode("utf-8", "surrogateescape"), digest_size=6).digest()
            example = Example(int.from_bytes(digest, "big"), request[:MAX_REQUEST], raw[name].left, raw[name].right)
            field.examples = sorted([*field.examples, example])[: tally.max_samples]


def merge(one: Tally, other: Tally) -> Tally:
    """Both together."""
    kept = max(one.max_samples, other.max_samples)
    fields = {}
    for name in one.fields.keys() | other.fields.keys():
        a, b = one.fields.get(name, Field()), other.fields.get(name, Field())
        examples = sorted([*a.examples, *b.examples])[:kept]
        fields[name] = Field(a.raw + b.raw, a.noise + b.noise, a.both + b.both, examples)
    return Tally(
        total=one.total + other.total,
        skipped=_added(one.skipped, other.skipped),
        fields=fields,
        omitted=one.omitted + other.omitted,
        latency={
            role: _added(one.latency.get(role, {}), other.latency.get(role, {}))
            for role in one.latency.keys() | other.latency.keys()
        },
        max_samples=kept,
    )


K = TypeVar("K", str, int)


def _added(one: dict[K, int], other: dict[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}


def trimmed(tally: Tally, max_bytes: int) -> Tally:
    """The same in at most so many bytes of JSON: examples go first, then the fields that say least."""
    if len(msgspec.json.encode(tally)) <= max_bytes:
        return tally
    ranked = sorted(tally.fields.items(), key=lambda item: (item[1].noise - item[1].raw, item[0]))
    bare = [(name, Field(field.raw, field.noise, field.both, field.examples[:1])) for name, field in ranked]
    kept = len(bare)
    while True:
        dropped = sum(field.raw + field.noise - field.both for _, field in bare[kept:])
        found = msgspec.structs.replace(tally, fields=dict(bare[:kept]), omitted=tally.omitted + dropped)
        if kept == 0 or len(msgspec.json.encode(found)) <= max_bytes:
            return found
        kept = kept * 3 // 4


# Judging.


class Verdict(msgspec.Struct, frozen=True):
    """What is to be thought of a field."""

    field: str
    raw: int
    noise: int
    relative_percent: float
    absolute_percent: float
    luck_percent: float
    """How likely luck alone is to make some field look like this or worse, were the candidate equal."""
    regression: bool
    examples: list[Example]


def judge(tally: Tally, thresholds: Thresholds) -> list[Verdict]:
    """Every field that differed: regressions first, then by how far raw is beyond noise."""
    found = [_verdict(name, field, tally, thresholds) for name, field in tally.fields.items()]
    return sorted(found, key=lambda v: (not v.regression, v.noise - v.raw, v.field))


def outcome(tally: Tally, thresholds: Thresholds) -> Outcome:
    """Of all fields together; `unknown` while too few requests were compared."""
    if tally.total < thresholds.min_requests:
        return "unknown"
    return "regression" if any(verdict.regression for verdict in judge(tally, thresholds)) else "equal"


def report(tally: Tally, thresholds: Thresholds) -> dict[str, Any]:
    """All of it as plain data, for people and scripts."""
    return {
        "outcome": outcome(tally, thresholds),
        "total": tally.total,
        "skipped": dict(sorted(tally.skipped.items())),
        "median_s": {role: tally.median_s(role) for role in (PRIMARY, SECONDARY, CANDIDATE)},
        "thresholds": msgspec.to_builtins(thresholds),
        "fields": [msgspec.to_builtins(verdict) for verdict in judge(tally, thresholds)],
        "omitted": tally.omitted,
    }


def _verdict(name: str, field: Field, tally: Tally, thresholds: Thresholds) -> Verdict:
    beyond = abs(field.raw - field.noise)
    relative = 100 * beyond / max(field.raw + field.noise, 1)
    absolute = 100 * beyond / max(tally.total, 1)
    luck = min(100.0, 100 * _tail(field.raw - field.both, field.noise - field.both) * max(len(tally.fields), 1))
    regression = (
        tally.total >= thresholds.min_requests
        and field.raw > field.noise
        and relative > thresholds.relative_percent
        and absolute > thresholds.absolute_percent
        and luck <= thresholds.luck_percent
    )
    return Verdict(
        name, field.raw, field.noise, round(relative, 3), round(absolute, 4), luck, regression, list(field.examples)
    )


def _tail(heads: int, tails: int) -> float:
    """The chance of at least so many heads in heads + tails throws of a fair coin."""
    count = max(heads, 0) + max(tails, 0)
    if count == 0:
        return 1.0
    if count <= _EXACT:
        return float(sum(math.comb(count, k) for k in range(max(heads, 0), count + 1)) / 2**count)
    return 0.5 * math.erfc((heads - tails - 1) / math.sqrt(2 * count))
