"""Waiting between attempts: exponential, with full jitter, so that agents that lost etcd together do not come back
together."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds: random, up to `base_s` doubled with each failure in a row, at most `max_s`."""

    __slots__ = ("_base_s", "_failures", "_max_s", "_rng")

    def __init__(self, base_s: float = 0.1, max_s: float = 5.0, rng: random.Random | None = None) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._rng = rng or random.Random()
        self._failures = 0

    def next_s(self) -> float:
        """How long to wait now."""
        ceiling = min(self._max_s, self._base_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return ceiling * (0.2 + 0.8 * self._rng.random())

    def reset(self) -> None:
        """It worked."""
        self._failures = 0
