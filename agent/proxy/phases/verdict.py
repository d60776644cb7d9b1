# mypyc: compiled
"""What phases decide, as values: one place (`agent.proxy.request.walk`) does what they say.

A route's is `policies.decision.Decision`, which already is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from agent.proxy.messages.answers import Refusal
from agent.proxy.report.story import InForce
from policies.decision import Decision, Forward
from policies.kinds.authz.judge import Asked, Judge
from policies.kinds.shadow.decide import Order


class Refuse:
    """Answer in the mesh's own name."""

    __slots__ = ("body", "by", "counted", "fields", "refusal", "resets", "said", "what")

    def __init__(
        self,
        refusal: Refusal,
        fields: Sequence[bytes] = (),
        body: bytes | None = None,
        *,
        what: str = "",
        counted: bool = False,
        resets: bool = False,
        by: InForce | None = None,
        said: Refusal | None = None,
    ) -> None:
        self.refusal = refusal
        self.fields = list(fields)
        """Header lines beyond the usual ones."""
        self.body = body
        """In place of the usual one."""
        self.what = what or refusal.policy
        """Under which it is counted: the limit, the rule."""
        self.counted = counted
        """Whether the phase's own count is that of the refusals too."""
        self.resets = resets
        """Close the connection in place of an answer."""
        self.by = by
        """Whose document says so, where several of a kind apply."""
        self.said = said
        """What the client is told in place of the refusal, and all that it is told: the rest is for who operates."""


class Hold:
    """Wait, and then go on; or be refused; or have the answer come slowly."""

    __slots__ = ("bytes_per_s", "delay_s", "reason", "then", "what")

    def __init__(self, what: str, reason: str, delay_s: float, then: Refuse | None, bytes_per_s: float) -> None:
        self.what = what
        self.reason = reason
        self.delay_s = delay_s
        self.then = then
        self.bytes_per_s = bytes_per_s
        """0: as fast as it comes."""


class FallBack:
    """A breaker is open: to where its policy leads instead."""

    __slots__ = ("forward", "reason", "what")

    def __init__(self, forward: Forward, reason: str) -> None:
        self.forward = forward
        self.reason = reason
        self.what = "breaker"


class TurnAway:
    """It is too much for the instances of this host: to the caller, or along the ways out."""

    __slots__ = ("reason", "retry_after_s", "what")

    def __init__(self, reason: str, retry_after_s: int, what: str = "refused") -> None:
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.what = what


class Copies:
    """Send copies along."""

    __slots__ = ("orders", "what")

    def __init__(self, orders: Sequence[Order]) -> None:
        self.orders = orders
        self.what = ""


class Settle:
    """Its path is taken as another spelling of the same place: that is what is judged, and sent."""

    __slots__ = ("place", "target", "what")

    def __init__(self, target: bytes, place: bytes) -> None:
        self.target = target
        """Path and query that the service is sent."""
        self.place = place
        """What rules judge."""
        self.what = "normalized"


class Consult:
    """It depends on what somebody says who is not asked in passing: ask him, and then the phase again."""

    __slots__ = ("asked", "judge", "what")

    def __init__(self, judge: Judge, asked: Asked | None) -> None:
        self.judge = judge
        self.asked = asked
        """None: it is not known yet what he has to be told."""
        self.what = judge.who


Verdict: TypeAlias = Decision | Refuse | Hold | FallBack | TurnAway | Copies | Settle | Consult


def outcome(verdict: Verdict | None) -> str:
    """In a word or two, beside what another document would have done of the same request."""
    if verdict is None:
        return "passed"
    if isinstance(verdict, Decision):
        return verdict.rule
    if isinstance(verdict, Hold):
        return f"faulted by {verdict.what}"
    if isinstance(verdict, Refuse):
        by = "" if verdict.what == verdict.refusal.policy else f" by {verdict.what}"
        return f"refused{by}"
    if isinstance(verdict, Copies):
        return "copied"
    if isinstance(verdict, FallBack):
        return "refused, to its fallback"
    return "refused" if isinstance(verdict, TurnAway) else verdict.what


def what(verdict: Verdict) -> str:
    """Under which it is counted."""
    return verdict.rule if isinstance(verdict, Decision) else verdict.what
