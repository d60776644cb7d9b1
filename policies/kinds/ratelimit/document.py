"""`ratelimit`: how many requests may pass, for an agent or for all agents together, and who has a bucket of one's own.

Laws
- A request takes from every limit that it matches, or from none; who is refused is told when to come back.
- A limit for the whole mesh is divided among the live agents by demand (`shares`), a limit for an agent evenly
  among its workers. Who divides is not asked about any request: a worker decides with what it has.
- A limit is counted where its `side` says: by the callers' agents before a request leaves, or by the agent beside
  the instance, past which nobody comes.
- No edit fills a bucket: what was counted lives in `Buckets`, under the name of the limit.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from policies.kinds.ratelimit.shares import Shared
from policies.language.document import Document
from policies.language.matching import Match, check_ungrouped
from policies.language.plain import Flaw, below, read_at
from policies.request import TOKEN

MAX_KEYS: Final = 10_000
_RATE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)/(s|m|h)\Z")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_LEAST: Final = Fraction(1, 3600)
_MOST: Final = 10_000_000


class KeyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What gets a bucket of its own; several together are one key."""

    caller: Annotated[bool, Meta(description="Each calling service")] = False
    header: str = ""
    cookie: str = ""
    query: Annotated[str, Meta(max_length=128)] = ""
    claim: Annotated[str, Meta(max_length=128, description="Of a verified token")] = ""
    path: Annotated[bool, Meta(description="Each path, as it was sent, without the query")] = False
    address: Annotated[bool, Meta(description="Each client address; of IPv6, each /64")] = False
    trusted_hops: Annotated[int, Meta(ge=0, le=16, description="Proxies of yours in front of the mesh")] = 0

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if not any((self.caller, self.header, self.cookie, self.query, self.claim, self.path, self.address)):
            raise Flaw(path, "names nothing; one or more of caller, header, cookie, query, claim, path and address")
        if self.trusted_hops and not self.address:
            raise Flaw(f"{path}.trusted_hops", f"does nothing without {path}.address; leave one out or say the other")
        for kind, name in (("header", self.header), ("cookie", self.cookie)):
            if name and not TOKEN.match(name):
                raise Flaw(f"{path}.{kind}", f"{name[:60]!r} is no {kind} name")


class LimitRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One limit."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)",
            description="What was counted is kept under it",
            extra={"right": "a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', such as per-user"},
        ),
    ]
    rate: Annotated[float | str, Meta(description='"100/s", "6000/m", "1000/h", or a number a second')]
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=_MOST)] | None,
        Meta(description="At once, after a silence; default one second's worth, at least 1"),
    ] = None
    scope: Annotated[
        Literal["agent", "mesh"], Meta(description="agent: each allows this much; mesh: all live agents together")
    ] = "agent"
    side: Annotated[
        Literal["caller", "service"],
        Meta(description="Whose agent counts and refuses: that of whoever calls, or the one beside the instance"),
    ] = "caller"
    key: Annotated[KeyRule | None, Meta(description="What gets a bucket of its own; default one for all")] = None
    max_keys: Annotated[int, Meta(ge=1, le=1_000_000, description="Keys that a worker remembers")] = MAX_KEYS
    match: Annotated[Match, Meta(description="Which requests; default all")] = Match()
    status: Annotated[int, Meta(ge=400, le=599)] = 429
    body: Annotated[str, Meta(max_length=65536, description="Of the answer; default says the reason, as JSON")] = ""

    def check(self, path: str) -> None:
        """Raises Flaw."""
        read_at(f"{path}.rate", parse_rate, self.rate)
        if self.key is not None:
            self.key.check(f"{path}.key")
        elif self.max_keys != MAX_KEYS:
            raise Flaw(f"{path}.max_keys", f"does nothing without {path}.key; leave one out or say the other")
        check_ungrouped(self.match, f"{path}.match")
        if self.side == "service" and self.status >= 500:
            reason = "callers' agents would take it for a failure of the instance; with side service, from 400 to 499"
            raise Flaw(f"{path}.status", f"{self.status}; {reason}")


class RateLimit(Document, frozen=True, kw_only=True):
    """The document."""

    limits: Annotated[
        tuple[LimitRule, ...], Meta(max_length=64, description="A request takes from all that it matches")
    ] = ()

    def check(self) -> None:
        """Rates are ones, and no two limits have one name."""
        seen: dict[str, int] = {}
        for n, limit in enumerate(self.limits):
            path = below("$", "limits", n)
            limit.check(path)
            if limit.name in seen:
                raise Flaw(
                    f"{path}.name", f"{limit.name!r} is the name of limits[{seen[limit.name]}] too; they are two"
                )
            seen[limit.name] = n


class Rate(NamedTuple):
    """Requests a second, and the same in whole numbers."""

    per_s: float
    quota: int
    window_s: int


def parse_rate(value: float | str) -> Rate:
    """A rate as people write it. Raises ValueError that says what would be right."""
    if isinstance(value, str):
        found = _RATE.match(value.strip())
        if found is None:
            raise ValueError(f'{value[:40]!r} is no rate; write "100/s", "6000/m", "1000/h" or a number a second')
        count, unit_s = Fraction(found[1]), _UNITS_S[found[2]]
    else:
        count, unit_s = Fraction(str(float(value))), 1
    per_s = count / unit_s
    if not _LEAST <= per_s <= _MOST:
        none = "; for none at all, let a route respond" if not per_s else ""
        raise ValueError(f"{value if isinstance(value, str) else f'{value:g}'}; from 1/h to {_MOST}/s{none}")
    return Rate(float(per_s), *_whole(count, unit_s))


def _whole(count: Fraction, unit_s: int) -> tuple[int, int]:
    """`2.5/s` as 5 in 2 s: header fields have whole numbers only. Within a twentieth."""
    near = count.limit_denominator(60)
    if abs(near - count) * 20 <= count:
        return near.numerator, near.denominator * unit_s
    return 1, round(unit_s / count)


def burst_of(limit: LimitRule, per_s: float) -> float:
    """How many may pass at once, of a limit with such a rate."""
    return float(limit.burst) if limit.burst is not None else max(1.0, per_s)


def shared(document: RateLimit) -> dict[str, Shared]:
    """The limits of a document that are divided among agents, by name."""
    return {
        limit.name: Shared(rate := parse_rate(limit.rate).per_s, limit.key is not None, burst_of(limit, rate))
        for limit in document.limits
        if limit.scope == "mesh"
    }
