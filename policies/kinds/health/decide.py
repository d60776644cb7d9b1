"""When an instance counts as healthy: single results become transitions, which alone are written anywhere."""

from __future__ import annotations

import random

import msgspec

from policies.kinds.health.document import HealthPolicy
from policies.language.duration import seconds


class Transition(msgspec.Struct, frozen=True):
    """An instance changed sides."""

    healthy: bool
    reason: str


class Tracker:
    """Rise and fall: turns results into transitions.

    A newcomer is starting until its first success, which makes it healthy at once: it has nothing to recover from.
    """

    __slots__ = ("_fall", "_rise", "_row", "healthy", "known")

    def __init__(self, policy: HealthPolicy) -> None:
        self._rise = policy.rise
        self._fall = policy.fall
        self._row = 0
        self.healthy = policy.initially
        self.known = False
        """Whether there is a verdict; starting before that."""

    def observe(self, ok: bool, reason: str) -> Transition | None:
        """Take a result; a transition when it changes the verdict, or is the first one."""
        if not self.known and ok:
            self.known = True
            self._row = 0
            changed, self.healthy = not self.healthy, True
            return Transition(True, reason) if changed else None
        if ok == self.healthy:
            starting = not self.known and not ok
            self._row = self._row + 1 if starting else 0
            # It is still starting, and one success will do; but why it fails is no longer "not checked yet".
            return Transition(False, reason) if starting and self._row == self._fall else None
        self._row += 1
        if self._row < (self._rise if ok else self._fall):
            return None
        self._row = 0
        self.known = True
        self.healthy = ok
        return Transition(ok, reason)

    def adopt(self, policy: HealthPolicy) -> None:
        """Go on under an edited document; the verdict stays."""
        self._rise = policy.rise
        self._fall = policy.fall


def pause_s(policy: HealthPolicy, rng: random.Random) -> float:
    """How long to wait before the next check, with jitter, so that checks do not march in step."""
    base = seconds(policy.interval)
    return base * (1 + policy.jitter * (2 * rng.random() - 1))
