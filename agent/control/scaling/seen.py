"""What a `scale` policy decides on: figures of all agents and instances of the table, as its kind wants them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.control.mesh.service import Service
from agent.figures.histogram import quantile
from agent.figures.questions import FiguresTold
from agent.figures.tally import CPU, IN_FLIGHT, OTHERS, PENDING, SHED, Key, Tally
from policies.kinds.scale.decide import Figures, Seen

NEARLY: float = 0.8
"""Of the long window, that has to be counted for figures to be whole."""
_NOTHING = Tally({}, 0, {}, {})


class Heard(NamedTuple):
    """What agents told of one window, of all services."""

    told: FiguresTold | None
    missing: Mapping[str, str]
    """By host: why it was not heard."""

    def of(self, service: str) -> Figures:
        """Of one; what nobody has counted at all is not known."""
        if self.told is None or not self.told.covered_s:
            return Figures()
        rows: Iterable[tuple[Key, Tally]] = self.told.rows
        return figures(next((tally for key, tally in rows if key.service == service), _NOTHING), self.told.covered_s)


def figures(tally: Tally, covered_s: int) -> Figures:
    """Of a service's row."""
    total, counts = tally.total, tally.counts
    shed = sum(count for name, count in counts.items() if name.startswith(SHED))
    return Figures(
        rate=total / covered_s,
        in_flight=counts.get(IN_FLIGHT, 0) / 1000,
        pending=counts.get(PENDING, 0) / 1000,
        cpu=counts[CPU] / 1000 if CPU in counts else None,
        p50=quantile(tally.buckets, 0.5),
        p90=quantile(tally.buckets, 0.9),
        p99=quantile(tally.buckets, 0.99),
        shed=min(1.0, shed / max(total, shed)) if total or shed else 0.0,
    )


def seen(name: str, service: Service, stable: Heard, panic: Heard, stable_s: float) -> Seen:
    """Of a service."""
    living = [id for id, record in service.instances.items() if record.state != "draining"]
    ready = sum(id not in service.health or service.health[id].healthy for id in living)
    why_not = _why_not(stable, stable_s)
    return Seen(len(living), ready, stable.of(name), panic.of(name), not why_not, why_not)


def _why_not(heard: Heard, stable_s: float) -> str:
    if heard.told is None:
        return "no agent was heard"
    if heard.missing:
        host = min(heard.missing)
        more = f" and {len(heard.missing) - 1} more" if len(heard.missing) > 1 else ""
        return f"{host} was not heard ({heard.missing[host]}){more}"
    if any(key.service == OTHERS for key, _ in heard.told.rows):
        return "there are more services than figures have room for, and some are told together"
    if heard.told.covered_s < NEARLY * stable_s:
        return f"counted for {heard.told.covered_s} s of {stable_s:g} s"
    return ""
