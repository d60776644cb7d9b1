# mypyc: compiled
"""The retry budget: retries as a share of the traffic, over the last seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.kinds.retry.policy import RetryPolicy


class Budget:
    """Counts requests and retries over the last seconds, in one bucket a second. Outlives the documents.

    A clock that jumps back is taken for one that stands still.
    """

    __slots__ = ("_min_per_s", "_ratio", "_requests", "_retries", "_second", "_slots")

    def __init__(self) -> None:
        self._ratio = 0.2
        self._min_per_s = 10.0
        self._slots = 10
        self._second = 0
        self._requests = [0] * 10
        self._retries = [0] * 10

    def configure(self, policy: RetryPolicy) -> None:
        """Take a document's figures; what was counted stays, unless the window changes."""
        self._ratio = policy.ratio if policy.bounded else float("inf")
        self._min_per_s = policy.min_per_s
        slots = max(1, round(policy.ttl_s))
        if slots != self._slots:
            self._slots = slots
            self._requests = [0] * slots
            self._retries = [0] * slots

    def copy(self) -> Budget:
        """As it is now, to ask what would be."""
        found = Budget()
        found._ratio, found._min_per_s = self._ratio, self._min_per_s
        found._slots, found._second = self._slots, self._second
        found._requests, found._retries = self._requests.copy(), self._retries.copy()
        return found

    def deposit(self, now: float) -> None:
        """A request was begun."""
        second = int(now)
        if second > self._second:
            self._forget(second)
        self._requests[self._second % self._slots] += 1

    def is_free(self, now: float) -> bool:
        """Whether `try_withdraw` would say so."""
        second = int(now)
        if second > self._second:
            self._forget(second)
        return sum(self._retries) < self.allowance()

    def try_withdraw(self, now: float) -> bool:
        """Whether there may be another retry; counted when so."""
        if not self.is_free(now):
            return False
        self._retries[self._second % self._slots] += 1
        return True

    def allowance(self) -> float:
        """Retries allowed within the window as it stands."""
        if self._ratio == float("inf"):
            return self._ratio
        return self._ratio * sum(self._requests) + self._min_per_s * self._slots

    def _forget(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + self._slots) + 1):
            self._requests[passed % self._slots] = 0
            self._retries[passed % self._slots] = 0
        if second - self._second > self._slots:
            self._requests = [0] * self._slots
            self._retries = [0] * self._slots
        self._second = second
