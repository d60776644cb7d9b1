"""Histograms of durations: counts by bucket, sparse, with the same bounds everywhere: they can be added up. Pure.

Law: a quantile is within its bucket, so it is off by a factor of the root of 2 at most; beyond the last bound it is
that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

BOUNDS_S: Final = tuple(0.0005 * 2 ** (n / 2) for n in range(35))
"""Upper bounds of buckets 0 to 34, from 0.5 ms to 65 s; bucket 35 has what took longer."""


def quantile(buckets: Mapping[int, int], part: float) -> float | None:
    """In seconds: `part` (0.99) of all took at most so long. None where nothing was counted."""
    total = sum(buckets.values())
    if not total:
        return None
    rank, before = part * total, 0
    for bucket in sorted(buckets):
        count = buckets[bucket]
        if count and before + count >= rank:
            return _within(bucket, (rank - before) / count)
        before += count
    return BOUNDS_S[-1]


def _within(bucket: int, part: float) -> float:
    """Even over the logarithm, as the bounds are; in the first bucket, which begins at nothing, over time."""
    if bucket >= len(BOUNDS_S):
        return BOUNDS_S[-1]
    high = BOUNDS_S[bucket]
    if bucket == 0:
        return high * part
    low = BOUNDS_S[bucket - 1]
    return low * math.exp(math.log(high / low) * part)
