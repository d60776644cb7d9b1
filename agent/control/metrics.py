"""/metrics: the workers' counters added up, and control's own, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


class Collected:
    """Metrics of one moment, as a collector."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        return iter(self._metrics)


def render(workers: list[dict[str, Any]], control: dict[str, float]) -> bytes:
    """The whole page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected([*_services(workers), *_workers(workers), *_control(control)]))
    return generate_latest(registry)


def _added(workers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every service's counters, summed over the workers."""
    total: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, service in worker["services"].items():
            into = total.setdefault(name, {})
            for field, value in service.items():
                into[field] = _plus(into.get(field), value)
    return total


def _plus(one: Any, other: Any) -> Any:
    if one is None:
        return other
    if isinstance(other, dict):
        return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
    if isinstance(other, list):
        counted = [requests, refused, failures, retries, hedges, audit, received, sent]
    return [*counted, active, duration, *by_label.values(), breaker, ejected]


def _buckets(bounds: list[float], counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, number in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += number
        buckets.append((bound, total))
    return buckets


def _workers(workers: list[dict[str, Any]]) -> list[Metric]:
    refused = CounterMetricFamily("shoal_refused_unrouted", "Refusals with no service behind them", labels=["policy"])
    policies = {policy for worker in workers for policy in worker["refused"]}
    for policy in sorted(policies):
        refused.add_metric([policy], sum(worker["refused"].get(policy, 0) for worker in workers))
    metrics: list[Metric] = [refused]
    for name, text, part, field in (
        ("shoal_connections_open", "Client connections", "connections", "open"),
        ("shoal_upstream_connections_open", "Connections to endpoints", "pool", "open"),
        ("shoal_upstream_connections_idle", "Idle ones of them", "pool", "idle"),
    ):
        metrics.append(GaugeMetricFamily(name, text, value=sum(worker[part][field] for worker in workers)))
    for name, text, part, field in (
        ("shoal_connections", "Client connections accepted", "connections", "accepted"),
        ("shoal_upstream_connects", "Connections made to endpoints", "pool", "connects"),
        ("shoal_upstream_reuses", "Requests sent over a connection from the pool", "pool", "reused"),
    ):
        metrics.append(CounterMetricFamily(name, text, value=sum(worker[part][field] for worker in workers)))
    lost = sum(worker["records_lost"] for worker in workers)
    metrics.append(CounterMetricFamily("shoal_access_records_lost", "Access records that nobody took", value=lost))
    return metrics


_OWN = {
    "table_revision": "Revision that every worker of this host runs",
    "table_age_seconds": "Since etcd was last heard of",
    "etcd_connected": "1 while the watch on etcd stands",
    "policies_refused": "Policies that are not in force",
    "instances": "Instances in the mesh",
    "services": "Services in the mesh",
    "suspects": "Endpoints whose mass deletion is not believed",
    "worker_restarts": "Workers replaced since the agent started",
    "resyncs": "Snapshots taken from etcd",
    "access_log_lines_lost": "Lines that could not be written since the agent started",
    "lease_grants": "Leases taken since the agent started",
}


def _control(control: dict[str, float]) -> list[Metric]:
    metrics: list[Metric] = [
        GaugeMetricFamily(f"shoal_{name}", _OWN[name], value=value) for name, value in control.items() if name in _OWN
    ]
    metrics.append(GaugeMetricFamily("shoal_scrape_time_seconds", "When this page was made", value=time.time()))
    return metrics
