# mypyc: compiled
"""One limit of a document: its figures, what gets a bucket of its own, and what requests are told of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from policies.hashing import hash64
from policies.kinds.ratelimit.address import client_of
from policies.request import RequestView, cookie, query_parameter

LONG: Final = 64
"""Characters of a key's value that are kept as they are."""
_LONGEST_S: Final = 1e9
_ROUNDING: Final = 1e-9
"""Of a token."""


class Limited(NamedTuple):
    """Why a request is refused, and when another may pass."""

    name: str
    status: int
    body: str
    """Empty: the mesh's own."""
    retry_after_s: int
    limit: int
    """Requests in `window_s`, which together say the rate of the whole limit in whole numbers."""
    window_s: int
    remaining: int
    reset_s: int
    reason: str


class Key:
    """What gets a bucket of its own: everything that is named here, taken together."""

    __slots__ = ("_address", "_caller", "_claim", "_cookie", "_header", "_hops", "_path", "_query")

    def __init__(
        self,
        caller: bool = False,
        claim: str = "",
        header: str = "",
        cookie: str = "",
        query: str = "",
        path: bool = False,
        address: bool = False,
        trusted_hops: int = 0,
    ) -> None:
        self._address = address
        self._hops = trusted_hops
        self._caller = caller
        self._claim = claim
        self._header = header.lower()
        self._cookie = cookie
        self._query = query
        self._path = path

    def value(self, request: RequestView) -> str:
        """A request's key; what it does not have counts as empty."""
        parts: list[str] = []
        if self._caller:
            parts.append(request.caller)
        if self._claim:
            parts.append(request.claim(self._claim) or "")
        if self._header:
            parts.append(request.header(self._header) or "")
        if self._cookie:
            parts.append(cookie(request, self._cookie) or "")
        if self._query:
            parts.append(query_parameter(request, self._query) or "")
        if self._path:
            parts.append(request.path)
        if self._address:
            parts.append(client_of(request, self._hops))
        found = parts[0] if len(parts) == 1 else "\0".join(parts)
        return found if len(found) <= LONG else f"\0{hash64(found):016x}"


class Limit:
    """The figures of one limit of a document."""

    __slots__ = (
        "body",
        "burst",
        "key",
        "matches",
        "max_keys",
        "name",
        "policy",
        "quota",
        "rate",
        "reason",
        "shared",
        "status",
        "window_s",
    )

    def __init__(
        self,
        name: str,
        rate: float,
        burst: float,
        *,
        quota: int = 1,
        window_s: int = 1,
        key: Key | None = None,
        matches: Callable[[RequestView], bool] | None = None,
        max_keys: int = 10_000,
        status: int = 429,
        body: str = "",
        reason: str = "",
        shared: bool = False,
    ) -> None:
        self.name = name
        self.rate = rate
        """Requests a second."""
        self.burst = burst
        self.quota = quota
        self.window_s = window_s
        self.policy = f'"{name}";q={quota};w={window_s}'
        """The field RateLimit-Policy of all answers."""
        self.key = key
        self.matches = matches
        self.max_keys = max_keys
        self.status = status
        self.body = body
        self.reason = reason
        self.shared = shared
        """Whether all agents have it together."""

    def refusal(self, wait_s: float) -> Limited:
        """What a request is told that could pass in `wait_s`; no later than after a window, when shares have moved."""
        wait = max(1, math.ceil(min(wait_s, float(self.window_s)) - 1e-6))
        return Limited(
            self.name, self.status, self.body, wait, self.quota, self.window_s, 0, wait, self.reason
        )  # fmt: skip

    def left(self, tokens: float, capacity: float, rate: float) -> Quota:
        """What a request is told that passed: so many more may, and in how many seconds there are as many as can be."""
        missing = capacity - tokens
        wait = float(self.window_s) if rate <= 0.0 else missing / rate
        return Quota(self, int(max(tokens, 0.0) + _ROUNDING), max(1, math.ceil(min(wait, _LONGEST_S) - 1e-6)))


class Quota:
    """What is left of a limit behind a request that it let pass."""

    __slots__ = ("limit", "remaining", "reset_s")

    def __init__(self, limit: Limit, remaining: int, reset_s: int) -> None:
        self.limit = limit
        self.remaining = remaining
        self.reset_s = reset_s

    def lines(self) -> bytes:
        """The header lines that its answer has, whoever gives it."""
        limit = self.limit
        return (
            f'ratelimit-policy: {limit.policy}\r\nratelimit: "{limit.name}";r={self.remaining};t={self.reset_s}\r\n'
        ).encode()


def fields(limited: Limited) -> list[tuple[str, str]]:
    """Header fields of a refusal: Retry-After (RFC 9110 section 10.2.3), and those of
    draft-ietf-httpapi-ratelimit-headers-10, which `Quota` has of what passed."""
    return [
        ("retry-after", str(limited.retry_after_s)),
        ("ratelimit-policy", f'"{limited.name}";q={limited.limit};w={limited.window_s}'),
        ("ratelimit", f'"{limited.name}";r={limited.remaining};t={limited.reset_s}'),
    ]
