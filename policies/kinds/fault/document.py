"""`fault`: delays, aborted requests and slow answers on purpose, to see what a mesh makes of them.

Every document says when it ends, so that one which somebody forgot ends by itself; and a request that carries
`x-shoal-no-fault` is left alone.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.language.answer import DirectResponse, check_answer
from policies.language.document import Document
from policies.language.duration import Duration, moment, positive, seconds
from policies.language.matching import Match, check_ungrouped
from policies.language.plain import Flaw, below, read_at
from policies.language.user import Sticky, check_share

MAX_DELAY_S: Final = 300.0


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At random from `least` to `most`."""

    least: Duration = 0
    most: Duration

    def check(self, path: str) -> None:
        """Raises Flaw."""
        most = positive(below(path, "most"), self.most, MAX_DELAY_S)
        if read_at(below(path, "least"), seconds, self.least) > most:
            raise Flaw(below(path, "least"), "longer than most")


class FaultRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done to the requests that match, or to a share of them."""

    name: Annotated[str, Meta(max_length=128, description="For people and metrics; default rules[n]")] = ""
    match: Annotated[Match, Meta(description="Which requests; default all")] = Match()
    percent: Annotated[float, Meta(gt=0, le=100, description="Share of those that match")] = 100
    sticky: Annotated[Sticky | None, Meta(description="The same users are always in the share")] = None
    delay: Annotated[
        Duration | Delay | None, Meta(description="Wait before the request goes on: so long, or at random between two")
    ] = None
    abort: Annotated[DirectResponse | None, Meta(description="Answer without asking an instance")] = None
    reset: Annotated[bool, Meta(description="Close the connection without an answer")] = False
    throttle: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None, Meta(description="Bytes a second of the answer's body")
    ] = None

    def check(self, path: str) -> None:
        """Raises Flaw."""
        check_ungrouped(self.match, below(path, "match"))
        if self.delay is None and self.abort is None and not self.reset and self.throttle is None:
            raise Flaw(path, "does nothing; one or more of delay, abort, reset and throttle")
        if self.abort is not None and self.reset:
            raise Flaw(below(path, "reset"), "does nothing beside abort, which answers; take one out")
        if self.throttle is not None and (self.reset or self.abort is not None):
            raise Flaw(below(path, "throttle"), "does nothing where no instance answers")
        if self.abort is not None:
            check_answer(self.abort, below(path, "abort"))
        if isinstance(self.delay, Delay):
            self.delay.check(below(path, "delay"))
        elif self.delay is not None:
            positive(below(path, "delay"), self.delay, MAX_DELAY_S)
        check_share(self.sticky, self.percent, below(path, "sticky"))


class FaultPolicy(Document, frozen=True, kw_only=True):
    """The document."""

    expires: Annotated[str, Meta(description="When it ends by itself, such as 2026-11-24T18:00:00Z")]
    rules: Annotated[tuple[FaultRule, ...], Meta(min_length=1, max_length=100, description="The first that matches")]

    def check(self) -> None:
        """Everything the types let pass."""
        read_at("$.expires", moment, self.expires)
        takes_all = ""
        for n, rule in enumerate(self.rules):
            path = below("$", "rules", n)
            if takes_all:
                raise Flaw(
                    path, f"never reached: {takes_all} matches every request, and the first that matches decides"
                )
            rule.check(path)
            if rule.match == Match():
                takes_all = path
