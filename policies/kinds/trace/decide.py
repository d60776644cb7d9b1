# mypyc: compiled
"""`trace`: whether a trace is sampled, and what its spans tell.

Laws
- A share is drawn by the trace's id, so that all who draw of one trace find the same: by its last 56 bits, which are
  random (W3C Trace Context level 2), as other systems draw. Who is in a share of 1% is in every larger one too.
- What is drawn is bounded by the rate; what somebody outside of the mesh's agents has decided before, and is followed,
  by a rate of its own. What an agent has decided is followed in any case: it has been bounded there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from policies.kind import ANYWHERE, Scope
from policies.kinds.trace.document import Trace
from policies.language.duration import seconds
from policies.language.matching import compile_match, template_regex
from policies.request import RequestView

RANDOM_DIGITS: Final = 14
"""Of an id: 56 bits."""
_ALL: Final = 1 << 4 * RANDOM_DIGITS
_NOBODY: Final = b"g"
"""Behind every digit."""

# Why a trace is sampled, or is not.
FOLLOWED: Final = "as its caller has decided"
DRAWN: Final = "by its share"
PACED: Final = "more were drawn in this second than its rate"
CROWDED: Final = "more were followed in this second than its follow_rate"


class Begun:
    """Traces that were drawn, or followed, of one service in one worker: what is left of a second's. Outlives
    documents."""

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = -1.0
        """Negative: nothing was drawn yet."""
        self._at = 0.0

    def has_room(self, rate: float, now: float) -> bool:
        """Whether one more may be, of so many a second. Takes nothing."""
        return self._left(rate, now) >= 1.0

    def take(self, rate: float, now: float) -> bool:
        """Whether one more may be; it is counted then."""
        left = self._left(rate, now)
        self._at = now
        self._tokens = left - 1.0 if left >= 1.0 else left
        return left >= 1.0

    def _left(self, rate: float, now: float) -> float:
        most = rate if rate > 1.0 else 1.0
        if self._tokens < 0.0:
            return most
        passed = now - self._at
        left = self._tokens + (passed if passed > 0.0 else 0.0) * rate
        return left if left < most else most


class _Rule:
    __slots__ = ("holds", "least")

    def __init__(self, holds: Callable[[RequestView], bool] | None, least: bytes) -> None:
        self.holds = holds
        self.least = least


class Compiled:
    """A document, ready to be asked."""

    __slots__ = (
        "_least",
        "_rules",
        "errors",
        "follow_rate",
        "follows",
        "headers",
        "late",
        "looks",
        "rate",
        "response_headers",
        "slower_s",
        "templates",
    )

    def __init__(
        self,
        least: bytes,
        rules: Sequence[_Rule],
        *,
        follows: bool,
        rate: float,
        follow_rate: float,
        errors: bool,
        slower_s: float,
        headers: Sequence[str],
        response_headers: Sequence[str],
        templates: Sequence[tuple[str, Any]],
    ) -> None:
        self._least = least
        self._rules = list(rules)
        self.looks = bool(rules)
        """Whether anything of a request is asked but its trace."""
        self.follows = follows
        """Whether it counts what whoever calls has decided."""
        self.rate = rate
        """Of one worker; 0: no limit."""
        self.follow_rate = follow_rate
        """Likewise."""
        self.errors = errors
        self.slower_s = slower_s
        """0: nothing is slow."""
        self.late = errors or slower_s > 0.0
        """Whether requests may leave a span that are in no share."""
        self.headers = [name.lower() for name in headers]
        self.response_headers = [name.lower() for name in response_headers]
        self.templates = list(templates)

    def least(self, request: RequestView | None) -> bytes:
        """What the last digits of a trace's id have to be at least, for a request; None where it `looks` at none."""
        if request is not None:
            for rule in self._rules:
                if rule.holds is None or rule.holds(request):
                    return rule.least
        return self._least

    def keeps(self, failed: bool, duration_s: float) -> str:
        """Why a request leaves a span that is in no share; empty: it leaves none."""
        if failed and self.errors:
            return "error"
        return "slow" if self.slower_s and duration_s > self.slower_s else ""

    def template(self, path: str) -> str:
        """By which its spans are named; empty: by none."""
        for text, pattern in self.templates:
            if pattern.fullmatch(path):
                return text
        return ""


def drawn(digits: bytes, least: bytes) -> bool:
    """Whether a trace is in a share; `digits`: the last RANDOM_DIGITS of its id, in lower case."""
    return digits >= least


def _least(share: float) -> bytes:
    number = _ALL - round(share * _ALL)
    return b"%014x" % number if number < _ALL else _NOBODY


def compile(document: Trace, scope: Scope = ANYWHERE) -> Compiled | None:
    """Ready to be asked; None: nothing is traced. `scope.share`: this worker's part of the agent's rate."""
    if not document.enabled:
        return None
    return Compiled(
        _least(document.share),
        [_Rule(compile_match(rule.match, {}), _least(rule.share)) for rule in document.rules],
        follows=document.parent == "follow",
        rate=document.rate * scope.share if document.rate is not None else 0.0,
        follow_rate=document.follow_rate * scope.share if document.follow_rate is not None else 0.0,
        errors=document.errors,
        slower_s=seconds(document.slower) if document.slower is not None else 0.0,
        headers=document.headers,
        response_headers=document.response_headers,
        templates=[(text, template_regex("$.templates", text)) for text in document.templates],
    )
