# mypyc: compiled
"""Sticky sessions: a client stays on the endpoint that it had first, for as long as that can take requests.

Laws
- A session outlives a change of zones: an endpoint that could still take requests keeps its clients, also when its zone
  is given none any more.
- What a client holds tells nothing of addresses: a cookie carries a hash of the endpoint's name.
- What a client sends is believed only so far as it names an endpoint that could have been picked.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.endpoint import Endpoint
from policies.hashing import hash64
from policies.kinds.balance.algorithms import BalanceState
from policies.kinds.balance.drawn import Members
from policies.kinds.balance.locality import Candidates, Tier, choose
from policies.kinds.balance.ring import POINTS, RingHash
from policies.kinds.balance.session import StickySession
from policies.language.duration import seconds
from policies.request import RequestView, cookie


class Sessions:
    """How clients are recognised."""

    __slots__ = ()

    def endpoint(self, request: RequestView) -> Endpoint | None:
        """The endpoint that the client has, if it can take requests."""
        raise NotImplementedError

    def cookie(self, endpoint: Endpoint) -> str | None:
        """The Set-Cookie value that keeps a client on an endpoint."""
        raise NotImplementedError

    def mark(self) -> object:
        """What a look moves, for `reset`."""
        raise NotImplementedError

    def reset(self, mark: object) -> None:
        """As if nobody had looked since `mark`."""
        raise NotImplementedError


def compile(rule: StickySession, found: Candidates, state: BalanceState) -> Sessions:
    """Sessions over the endpoints that may take requests."""
    return NamedSessions(rule, found, state) if rule.header or rule.claim else CookieSessions(rule, found.usable)


class CookieSessions(Sessions):
    """The client brings back what it was given."""

    __slots__ = ("_attributes", "_by_token", "_name", "_usable")

    def __init__(self, rule: StickySession, usable: Sequence[Endpoint]) -> None:
        self._name = rule.cookie
        age_s = int(seconds(rule.ttl))
        self._attributes = (
            f"; Path={rule.path}"
            + (f"; Max-Age={age_s}" if age_s else "")
            + "; HttpOnly"
            + ("; Secure" if rule.secure else "")
            + f"; SameSite={rule.same_site.capitalize()}"
        )
        self._usable = usable
        self._by_token: dict[str, Endpoint] | None = None

    def endpoint(self, request: RequestView) -> Endpoint | None:
        """The one that the cookie stands for."""
        token = cookie(request, self._name)
        if not token:
            return None
        if self._by_token is None:
            self._by_token = {_token(e): e for e in self._usable}
        return self._by_token.get(token)

    def cookie(self, endpoint: Endpoint) -> str | None:
        """Name, token and attributes."""
        return f"{self._name}={_token(endpoint)}{self._attributes}"

    def mark(self) -> object:
        """A look moves nothing."""
        return None

    def reset(self, mark: object) -> None:
        """Nothing to take back."""


class NamedSessions(Sessions):
    """The value of a header that the client sends anyway, or of a claim of its token, chooses, by consistent hashing:
    nothing is given to it, and nothing has to be kept. When an endpoint joins, the sessions that fall to it move."""

    __slots__ = ("_claim", "_header", "_rings", "_tiers")

    def __init__(self, rule: StickySession, found: Candidates, state: BalanceState) -> None:
        self._header = rule.header.lower()
        self._claim = rule.claim
        self._tiers = found.tiers
        self._rings = [_ring(tier, state) for tier in found.tiers]

    def endpoint(self, request: RequestView) -> Endpoint | None:
        """The one that the value falls to."""
        value = request.claim(self._claim) if self._claim else request.header(self._header)
        if not value or not self._rings:
            return None
        key = hash64(value)
        return self._rings[choose(self._tiers, point(key))].owner(key)

    def cookie(self, endpoint: Endpoint) -> str | None:
        """None."""
        return None

    def mark(self) -> object:
        """Of each ring."""
        return [ring.mark() for ring in self._rings]

    def reset(self, mark: object) -> None:
        """As if nobody had looked since `mark`."""
        assert isinstance(mark, list)
        for ring, turn in zip(self._rings, mark, strict=True):
            ring.reset(turn)


def _ring(tier: Tier, state: BalanceState) -> RingHash:
    members = Members(tier.members, tier.endpoints, state.drawn("sessions", tier.name))
    return RingHash(tier.endpoints, 0, 2 * POINTS, 512 * POINTS, members=members)


def point(key: int) -> float:
    """A key's place among the tiers, from 0 to 1, of bits that say little about its place on a ring or in a table."""
    return (key & 0xFFFFFFFF) / 0x1_0000_0000


def _token(endpoint: Endpoint) -> str:
    return f"{hash64(f'{endpoint.service}/{endpoint.id}'):016x}"
