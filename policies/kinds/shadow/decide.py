# mypyc: compiled
"""Which requests are copied, and where the copies go: what a `shadow` document is on the request path.

Laws
- A request that is not drawn costs one random number; nothing else of it is read.
- Shares are drawn together: who is in a share of 5% is in every larger one too. Users that a rule keeps together are
  drawn by their key, always the same way.
- A copy is never copied again, and what may change something is copied only where the document says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from policies.decision import Subset
from policies.hashing import draw
from policies.kind import ANYWHERE, Scope
from policies.kinds.shadow.document import READS, Compare, Sampled, Shadow
from policies.language.duration import seconds
from policies.language.matching import compile_match
from policies.language.names import parse_service
from policies.language.user import user_of
from policies.request import RequestView

SHADOW: Final = "shadow"
PRIMARY: Final = "primary"
SECONDARY: Final = "secondary"
CANDIDATE: Final = "candidate"
MARK: Final = "x-shoal-shadow"


class Order:
    """One copy that is wanted."""

    __slots__ = ("compared", "max_answer", "role", "service", "subset", "timeout_s")

    def __init__(
        self,
        service: str = "",
        subset: Subset | None = None,
        *,
        role: str = SHADOW,
        timeout_s: float = 5.0,
        max_answer: int = 0,
    ) -> None:
        self.service = service
        """Empty: the request's own."""
        self.subset = subset
        self.role = role
        """SHADOW, SECONDARY or CANDIDATE."""
        self.timeout_s = timeout_s
        self.max_answer = max_answer
        """Bytes of the answer's body that are kept; 0: it is thrown away."""
        self.compared = role != SHADOW

    def __str__(self) -> str:
        place = [self.service] if self.service else []
        place += [str(self.subset)] if self.subset is not None else []
        return f"{self.role} to {' '.join(place) or 'the service'}"


class Sample:
    """Some requests, and what is ordered for each."""

    __slots__ = ("_matches", "_name", "_orders", "_salt", "_user", "_writes", "share")

    def __init__(
        self,
        name: str,
        orders: Sequence[Order],
        *,
        share: float = 1.0,
        writes: bool = False,
        matches: Callable[[RequestView], bool] | None = None,
        user: Callable[[RequestView], str | None] | None = None,
        service: str = "",
    ) -> None:
        """`service`: whose users are drawn."""
        self._name = name
        self._salt = f"shadow/{service}/{name}"
        self._orders = list(orders)
        self.share = share
        """0 to 1."""
        self._writes = writes
        self._matches = matches
        self._user = user

    @property
    def sticky(self) -> bool:
        """Whether users stay together."""
        return self._user is not None

    def takes(self, request: RequestView, drawn: float) -> bool:
        """Whether a request is one of them; `drawn` is its random number."""
        if self._user is None and drawn >= self.share:
            return False
        if not self._writes and request.method not in READS:
            return False
        if self._matches is not None and not self._matches(request):
            return False
        if self._user is None:
            return True
        key = self._user(request)
        return (draw(key, self._salt) if key else drawn) < self.share

    def __str__(self) -> str:
        return f"{self._name}: {100 * self.share:.4g}% {', '.join(map(str, self._orders))}"

    @property
    def orders(self) -> Sequence[Order]:
        """What is ordered for each."""
        return self._orders


_NONE: Final[list[Order]] = []


class Compiled:
    """A document, ready to be asked."""

    __slots__ = ("_largest", "_samples", "compares", "concurrency", "max_answer", "max_body", "primary")

    def __init__(
        self, samples: Sequence[Sample], *, concurrency: int, max_body: int, max_answer: int = 0, primary: str = ""
    ) -> None:
        self._samples = list(samples)
        self._largest = 1.0 if any(sample.sticky for sample in samples) else max(sample.share for sample in samples)
        self.concurrency = concurrency
        """Copies under way at a time, for a service in a worker."""
        self.max_body = max_body
        """Bytes of a request's body; one with a larger one is not copied."""
        self.max_answer = max_answer
        """Bytes of the body of the request's own answer that are kept to be compared."""
        self.primary = primary
        """The version whose answers are compared; empty: any."""
        self.compares = any(order.compared for sample in samples for order in sample.orders)

    def decide(self, request: RequestView, rng: random.Random) -> Sequence[Order]:
        """The copies that are made of a request."""
        drawn = rng.random()
        if drawn >= self._largest:
            return _NONE
        found: list[Order] = []
        for sample in self._samples:
            if sample.takes(request, drawn):
                found.extend(sample.orders)
        if found and request.header(MARK) is not None:
            return _NONE
        return found

    def may(self, request: RequestView) -> Sequence[Sample]:
        """The samples that a request can be drawn for; with users that stay together, those that it is in."""
        if request.header(MARK) is not None:
            return []
        return [sample for sample in self._samples if sample.takes(request, 0.0)]


def compile(document: Shadow, scope: Scope = ANYWHERE) -> Compiled:
    """A checked document, ready for requests to a service; copies that would come back to it are left out."""
    service = scope.service
    samples = []
    for n, copy in enumerate(document.copies):
        order = _order(copy.to, copy.version, service, timeout_s=seconds(copy.timeout))
        if order is not None:
            samples.append(_sample(copy, f"copies[{n}]", service, order))
    compare = document.compare
    compared = _compared(compare, service) if compare is not None else None
    if compared is not None:
        samples.append(compared)
    return Compiled(
        samples or [Sample("nothing", (), share=0.0)],
        concurrency=document.limits.concurrency,
        max_body=document.limits.max_body,
        max_answer=compare.max_answer if compare is not None and compared is not None else 0,
        primary=compare.primary if compare is not None else "",
    )


def _compared(compare: Compare, service: str) -> Sample | None:
    timeout_s, room = seconds(compare.timeout), compare.max_answer
    other, place = compare.secondary, compare.candidate
    candidate = _order(
        place.to, place.version, service, role=CANDIDATE, timeout_s=timeout_s, max_answer=room, but=compare.primary
    )
    if candidate is None:
        return None
    secondary = (
        _order(other.to, other.version, "", role=SECONDARY, timeout_s=timeout_s, max_answer=room) if other else None
    )
    if secondary is None:
        subset = Subset(compare.primary) if compare.primary else None
        secondary = Order("", subset, role=SECONDARY, timeout_s=timeout_s, max_answer=room)
    return _sample(compare, "compare", service, secondary, candidate)


def _sample(sampled: Sampled, name: str, service: str, *orders: Order) -> Sample:
    """With what is ordered for each request."""
    return Sample(
        name,
        orders,
        share=sampled.percent / 100,
        writes=sampled.writes,
        matches=compile_match(sampled.match, {}),
        user=user_of(sampled.sticky) if sampled.sticky is not None else None,
        service=service,
    )


def _order(
    to: str,
    version: str,
    service: str,
    *,
    role: str = "shadow",
    timeout_s: float,
    max_answer: int = 0,
    but: str | None = None,
) -> Order | None:
    """None when it is `service` itself: a document for `*` may cover the service that it copies to."""
    named = parse_service(to) if to else ""
    other = "" if named == service else named
    if not other and (not version or version == but):
        return None
    subset = Subset(version) if version else None
    return Order(other, subset, role=role, timeout_s=timeout_s, max_answer=max_answer)
