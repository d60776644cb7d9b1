# mypyc: compiled
"""Outlier ejection: endpoints that do worse than their peers are passed over for a while.

Laws
- A worker judges by what it saw itself, and ejects for itself: one host's broken link takes an instance away from that
  host only. When most endpoints look bad from here, it is our link: then nobody is ejected.
- Never the whole service: at most `max_percent` are out, and never the last one that is in.
- Little traffic proves nothing: who is compared, or judged by a share, has had `min_requests` within the interval.
  Failures in a row are proof by themselves.
- What is asked for can come about: where endpoints are so few that none can be that far from the mean of all, the
  deviation is the one that chance makes.
- Ejected again, out for longer; whoever behaves is forgiven step by step.
- An active health check that turns healthy after the ejection ends it; one that is unhealthy has its own way out.
- A clock that jumps back is taken for one that stands still.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

OK: Final = 0
SERVER_ERROR: Final = 1
GATEWAY: Final = 2
CONNECT: Final = 3
RESET: Final = 4
TIMEOUT: Final = 5

_JITTER: Final = 0.1
_FEW: Final = 8
MOST_BAD: Final = 0.5
"""Beyond this share of bad endpoints the fault is taken for ours."""
_LEAST_FAILURES: Final = 3
"""One unlucky request of twenty is far outside of two deviations where nobody else had any."""
_LOCAL: Final = (CONNECT, RESET, TIMEOUT)
"""Tries without an answer."""
_LEAST_DIFFERENCE: Final = 0.001
"""Success rates that lie closer together are the same, however alike the others are."""


class Figures:
    """The figures; 0 turns a detector off."""

    __slots__ = (
        "base_s",
        "consecutive_5xx",
        "consecutive_gateway",
        "consecutive_local",
        "failure_rate",
        "interval_s",
        "latency_factor",
        "latency_floor_s",
        "max_percent",
        "max_s",
        "min_endpoints",
        "min_requests",
        "success_factor",
    )

    def __init__(
        self,
        *,
        consecutive_5xx: int = 5,
        consecutive_gateway: int = 0,
        consecutive_local: int = 0,
        failure_rate: float = 0.0,
        success_factor: float = 1.9,
        latency_factor: float = 0.0,
        latency_floor_s: float = 0.05,
        interval_s: float = 10.0,
        min_requests: int = 20,
        min_endpoints: int = 3,
        base_s: float = 30.0,
        max_s: float = 300.0,
        max_percent: float = 50.0,
    ) -> None:
        self.consecutive_5xx = consecutive_5xx
        self.consecutive_gateway = consecutive_gateway
        self.consecutive_local = consecutive_local
        """Tries without an answer; they are no part of the other rows then."""
        self.failure_rate = failure_rate
        """Out when so much of its requests fails, 0 to 1, whatever the others do."""
        self.success_factor = success_factor
        """Out when the success rate is below the mean by so many standard deviations."""
        self.latency_factor = latency_factor
        """Out when the average latency is so many times the median of the endpoints."""
        self.latency_floor_s = latency_floor_s
        self.interval_s = interval_s
        self.min_requests = min_requests
        self.min_endpoints = min_endpoints
        self.base_s = base_s
        self.max_s = max_s
        self.max_percent = max_percent


class Record:
    """What was seen of one endpoint in this interval, and its failures in a row."""

    __slots__ = ("answers", "failures", "gateway_row", "latency_s", "local_row", "requests", "row", "usual_s")

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0
        self.answers = 0
        self.latency_s = 0.0
        """Sum over the good answers: failures are quick or run into a time-out, and tell nothing of the others."""
        self.row = 0
        self.gateway_row = 0
        self.local_row = 0
        self.usual_s = 0.0
        """How long good answers take, on average over the last few; 0 before the first."""

    def observe(self, outcome: int, latency_s: float, split: bool = False) -> None:
        """A try ended. `split`: those without an answer make a row of their own."""
        self.requests += 1
        if outcome == OK:
            self.answers += 1
            self.latency_s += latency_s
            self.usual_s += (latency_s - self.usual_s) / _FEW if self.usual_s else latency_s
            self.end_rows()
            return
        self.failures += 1
        if outcome in _LOCAL:
            self.local_row += 1
            if split:
                return
        else:
            self.local_row = 0
        self.row += 1
        self.gateway_row = 0 if outcome == SERVER_ERROR else self.gateway_row + 1

    def end_rows(self) -> None:
        """It was good; or is out."""
        self.row = 0
        self.gateway_row = 0
        self.local_row = 0

    def clear(self) -> None:
        """A new interval."""
        self.requests = 0
        self.failures = 0
        self.answers = 0
        self.latency_s = 0.0


class Ejected(NamedTuple):
    """An endpoint is out."""

    id: str
    reason: str
    until: float
    """Monotonic seconds."""
    seconds: float


class Returned(NamedTuple):
    """An endpoint is in again."""

    id: str
    reason: str


class _Out:
    """An endpoint that is out, or was."""

    __slots__ = ("times", "unhealthy", "until")

    def __init__(self) -> None:
        self.times = 0
        self.until = 0.0
        self.unhealthy = False
        """Whether its active check failed while it was out."""


class Ejector:
    """The endpoints of one service, as one worker judges them."""

    __slots__ = ("_now", "_outs", "_rules")

    def __init__(self, rules: Figures) -> None:
        self._rules = rules
        self._outs: dict[str, _Out] = {}
        self._now = 0.0

    def configure(self, rules: Figures) -> None:
        """Take other figures."""
        self._rules = rules

    def until(self, id: str) -> float:
        """Until when an endpoint is out; 0 when it is in."""
        out = self._outs.get(id)
        return out.until if out is not None and out.until > self._now else 0.0

    def ejected(self) -> list[str]:
        """Those that are out now."""
        return [id for id, out in self._outs.items() if out.until > self._now]

    def observe(
        self, id: str, record: Record, outcome: int, latency_s: float, now: float, rng: random.Random, total: int
    ) -> Ejected | None:
        """A try at an endpoint ended. `total` is how many endpoints the service has."""
        rules = self._rules
        record.observe(outcome, latency_s, rules.consecutive_local > 0)
        if outcome == OK:
            return None
        self._now = max(self._now, now)
        if self.until(id):
            return None
        if rules.consecutive_5xx and record.row >= rules.consecutive_5xx:
            return self._eject(id, record, f"{record.row} failures in a row", total, rng)
        if rules.consecutive_gateway and record.gateway_row >= rules.consecutive_gateway:
            return self._eject(id, record, f"{record.gateway_row} gateway failures in a row", total, rng)
        if rules.consecutive_local and record.local_row >= rules.consecutive_local:
            return self._eject(id, record, f"{record.local_row} tries in a row without an answer", total, rng)
        return None

    def judge(
        self, records: Mapping[str, Record], healthy: Collection[str], now: float, rng: random.Random
    ) -> list[Ejected | Returned]:
        """At the end of an interval: who comes back, and who is worse than the others. `healthy` are the endpoints
        that pass their active checks."""
        self._now = max(self._now, now)
        verdicts: list[Ejected | Returned] = []
        verdicts += self._returns(records, healthy)
        peers = {id: record for id, record in records.items() if id in healthy and not self.until(id)}
        enough = {id: record for id, record in peers.items() if record.requests >= self._rules.min_requests}
        bad = self._bad(enough)
        if len(bad) > MOST_BAD * len(enough):
            bad = {}
        bad |= self._failing(enough)
        for id, reason in bad.items():
            ejected = self._eject(id, records[id], reason, len(records), rng)
            if ejected is not None:
                verdicts.append(ejected)
        for record in records.values():
            record.clear()
        return verdicts

    def _returns(self, records: Mapping[str, Record], healthy: Collection[str]) -> list[Ejected | Returned]:
        found: list[Ejected | Returned] = []
        for id, out in list(self._outs.items()):
            if id not in records:
                del self._outs[id]
            elif out.until > self._now:
                if id not in healthy:
                    out.unhealthy = True
                elif out.unhealthy:
                    out.until = 0.0
                    found.append(Returned(id, "its health check passes again"))
            elif out.until:
                out.until = 0.0
                out.unhealthy = False
                found.append(Returned(id, "its time is over"))
            elif out.times:
                out.times -= 1
            else:
                del self._outs[id]
        return found

    def _failing(self, records: Mapping[str, Record]) -> dict[str, str]:
        """Whose failures are too many by themselves."""
        most = self._rules.failure_rate
        if not most:
            return {}
        return {
            id: f"{record.failures} of {record.requests} requests failed"
            for id, record in records.items()
            if record.failures >= most * record.requests
        }

    def _bad(self, records: Mapping[str, Record]) -> dict[str, str]:
        """Who is worse than the others."""
        rules = self._rules
        if len(records) < rules.min_endpoints:
            return {}
        return {**self._slow(records), **self._failing_more(records)}

    def _failing_more(self, records: Mapping[str, Record]) -> dict[str, str]:
        factor = self._rules.success_factor
        if not factor:
            return {}
        rates = {id: 1 - record.failures / record.requests for id, record in records.items()}
        mean = math.fsum(rates.values()) / len(rates)
        deviation = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates.values()) / len(rates))
        # One of n that are alike but for it is sqrt(n - 1) deviations from their mean, and none is ever further.
        few = factor * factor >= len(rates) - 1
        bad: dict[str, str] = {}
        for id, rate in rates.items():
            record = records[id]
            if few:
                deviation = math.sqrt(mean * (1 - mean) / record.requests)
            below = mean - rate
            if below > factor * deviation and below > _LEAST_DIFFERENCE and record.failures >= _LEAST_FAILURES:
                bad[id] = f"{rate:.1%} succeed, where {mean:.1%} do on average"
        return bad

    def _slow(self, records: Mapping[str, Record]) -> dict[str, str]:
        rules = self._rules
        if not rules.latency_factor:
            return {}
        averages = {id: r.latency_s / r.answers for id, r in records.items() if r.answers >= rules.min_requests}
        if len(averages) < rules.min_endpoints:
            return {}
        median = sorted(averages.values())[(len(averages) - 1) // 2]
        return {
            id: f"{average * 1000:.0f} ms on average, where half need {median * 1000:.0f} ms"
            for id, average in averages.items()
            if average > rules.latency_floor_s and average > rules.latency_factor * median
        }

    def _eject(self, id: str, record: Record, reason: str, total: int, rng: random.Random) -> Ejected | None:
        rules = self._rules
        already = len(self.ejected())
        if already + 1 >= total or (already + 1) * 100 > rules.max_percent * total:
            return None
        out = self._outs.get(id)
        if out is None:
            out = self._outs[id] = _Out()
        out.times += 1
        out.unhealthy = False
        length_s = min(rules.base_s * out.times, rules.max_s) * (1 + _JITTER * (2 * rng.random() - 1))
        out.until = self._now + length_s
        record.end_rows()
        return Ejected(id, reason, out.until, length_s)
