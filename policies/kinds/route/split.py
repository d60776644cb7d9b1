# mypyc: compiled
"""Dividing traffic by weight, at random or sticky.

A sticky split is a weighted rendezvous: every target draws a score from the user's key, and the best score wins, with
score = -weight / ln(draw). Growing one target's weight raises its scores and nobody else's: users move to it and
nowhere else, so going from 5% to 20% moves nobody back. (Schindelhauer and Schomaker, "Weighted distributed hash
tables", 2005.)
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from typing import Generic, TypeVar

from policies.hashing import draw

T = TypeVar("T")


class Split(Generic[T]):
    """Targets with weights; names tell them apart in the sticky draw, so that order and neighbours do not matter."""

    __slots__ = ("_cumulative", "_targets", "_total")

    def __init__(self, targets: Sequence[tuple[str, float, T]]) -> None:
        self._targets = [target for target in targets if target[1] > 0]
        self._cumulative: list[float] = []
        total = 0.0
        for _, weight, _ in self._targets:
            total += weight
            self._cumulative.append(total)
        self._total = total

    @property
    def only(self) -> T | None:
        """The target, when there is one alone that anything can go to."""
        return self._targets[0][2] if len(self._targets) == 1 else None

    def at_random(self, rng: random.Random) -> T:
        """A target, in proportion to the weights."""
        if len(self._targets) == 1:
            return self._targets[0][2]
        index = bisect.bisect_right(self._cumulative, rng.random() * self._total)
        return self._targets[min(index, len(self._targets) - 1)][2]

    def sticky(self, key: str) -> T:
        """Always the same target for a key, in proportion to the weights over keys."""
        return max(self._targets, key=lambda target: -target[1] / math.log(draw(key, target[0])))[2]
