"""What workers counted, added up: metrics of services, and of what workers have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Final, TypeAlias, cast

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Sample

from agent.control.admin.state import WORST

Added: TypeAlias = Sequence[tuple[str, dict[str, Any]]]
"""Services by name, with the sums of what their workers counted."""
Add: TypeAlias = Callable[[Any, str, dict[str, Any]], None]


def of_workers(workers: Sequence[dict[str, Any]]) -> list[Metric]:
    """From each one's figures; those of another version may lack some."""
    return [*_services(workers), *_in_common(workers)]


def _added(workers: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every service's counters, summed over the workers."""
    total: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, service in worker.get("services", {}).items():
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
        return [a + b for a, b in zip(one, other, strict=False)]
    return one + other


class Samples:
    """Of a family, made a service at a time while the page is written: all of them at once are so many objects that the
    collector of garbage goes through everything that control holds, in one pause."""

    def __init__(self, family: Metric, added: Added, add: Add) -> None:
        """`add`s to a family what it has of one service."""
        self._family = copy(family)
        self._added = added
        self._add = add

    def __iter__(self) -> Iterator[Sample]:
        for name, service in self._added:
            self._family.samples = []
            self._add(self._family, name, service)
            yield from self._family.samples


def _services(workers: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    added = sorted(_added(workers).items())
    bounds: list[float] = next((worker["duration_bounds_s"] for worker in workers if "duration_bounds_s" in worker), [])

    def duration(family: Any, name: str, service: dict[str, Any]) -> None:
        family.add_metric([name], _buckets(bounds, service["duration_buckets"]), service["duration_sum_s"])

    for family, add in (*_FAMILIES, (_DURATION, duration)):
        made = copy(family)
        made.samples = cast("list[Sample]", Samples(family, added, add))
        yield made


def _by_label(field: str) -> Add:
    """A sample for each name that a field of a service has."""

    def add(family: Any, name: str, service: dict[str, Any]) -> None:
        for label, number in sorted(service.get(field, {}).items()):
            family.add_metric([name, label], number)

    return add


def _one(value: Callable[[dict[str, Any]], float]) -> Add:
    """One sample for each service."""

    def add(family: Any, name: str, service: dict[str, Any]) -> None:
        family.add_metric([name], value(service))

    return add


def _add_failures(family: Any, name: str, service: dict[str, Any]) -> None:
    for kind, number in sorted(service["failures"].items()):
        if kind not in ("retries", "hedges", "hedges_won"):
            family.add_metric([name, kind], number)


def _add_hedges(family: Any, name: str, service: dict[str, Any]) -> None:
    won = service["failures"].get("hedges_won", 0)
    family.add_metric([name, "true"], won)
    family.add_metric([name, "false"], service["failures"].get("hedges", 0) - won)


def _add_audits(family: Any, name: str, service: dict[str, Any]) -> None:
    for words, number in sorted(service["audit"].items()):
        labels = words.split("\t")
        if len(labels) == 4:  # a worker of before counts by kind alone
            family.add_metric([name, *labels], number)


def _add_authorized(family: Any, name: str, service: dict[str, Any]) -> None:
    for words, number in sorted(service.get("authorized", {}).items()):
        family.add_metric([name, *words.split("\t")], number)


def _add_authenticated(family: Any, name: str, service: dict[str, Any]) -> None:
    for words, number in sorted(service.get("authenticated", {}).items()):
        family.add_metric([name, *words.split("\t")], number)


def _add_judged(family: Any, name: str, service: dict[str, Any]) -> None:
    for words, number in sorted(service.get("judged", {}).items()):
        family.add_metric([name, *words.split("\t")], number)


def _add_breaker(family: Any, name: str, service: dict[str, Any]) -> None:
    if service["breaker"]:
        family.add_metric([name], max(WORST[state] for state in service["breaker"]))


def _add_ejected(family: Any, name: str, service: dict[str, Any]) -> None:
    if service["ejections"]:
        family.add_metric([name], len(service["ejected"]))


def _counter(name: str, text: str, *labels: str) -> Metric:
    return CounterMetricFamily(name, text, labels=["service", *labels])


def _gauge(name: str, text: str) -> Metric:
    return GaugeMetricFamily(name, text, labels=["service"])


_DURATION: Final = HistogramMetricFamily(
    "shoal_request_duration_seconds", "From the head to the end of the answer", labels=["service"]
)
_FAMILIES: Final[tuple[tuple[Metric, Add], ...]] = (
    (_counter("shoal_requests", "Requests by class of status", "status"), _by_label("requests")),
    (_counter("shoal_refused", "Answers of the mesh's own", "policy"), _by_label("refused")),
    (_counter("shoal_attempts_failed", "Failed attempts by kind", "kind"), _add_failures),
    (_counter("shoal_retries", "Attempts made again"), _one(lambda service: service["failures"].get("retries", 0))),
    (_counter("shoal_hedges", "Second attempts beside slow ones", "won"), _add_hedges),
    (
        _counter(
            "shoal_audit",
            "What was done, and what a document that is only watched would have done",
            *("kind", "document", "done", "would"),
        ),
        _add_audits,
    ),
    (_counter("shoal_authn", "What tokens came to", *("document", "verdict")), _add_authenticated),
    (_counter("shoal_authz", "What rules decided", *("document", "rule", "verdict")), _add_authorized),
    (
        _counter("shoal_authz_asked", "What was asked besides rules", *("document", "who", "outcome")),
        _add_judged,
    ),
    (_counter("shoal_request_bytes", "Bytes of request bodies"), _one(lambda service: service["bytes_in"])),
    (_counter("shoal_response_bytes", "Bytes of response bodies"), _one(lambda service: service["bytes_out"])),
    (_gauge("shoal_requests_active", "Requests in flight"), _one(lambda service: service["active"])),
    (_counter("shoal_limited", "Requests refused by a limit", "limit"), _by_label("limited")),
    (_counter("shoal_faults", "Faults injected on purpose", "rule"), _by_label("faults")),
    (_counter("shoal_shadow", "Copies of requests", "outcome"), _by_label("copies")),
    (
        _counter("shoal_exported_requests", "Of callers of another trust domain", "trust_domain"),
        _by_label("outside"),
    ),
    (
        _counter("shoal_plaintext_requests", "In plain text though its policy is permissive", "peer"),
        _by_label("plain"),
    ),
    (_counter("shoal_shed", "Requests that were not let in", "outcome"), _by_label("shed")),
    (_counter("shoal_breaker_transitions", "Changes of a breaker", "to"), _by_label("transitions")),
    (_counter("shoal_ejections", "Ejected by a worker", "endpoint"), _by_label("ejections")),
    (_gauge("shoal_breaker_state", "0 closed, 1 half-open, 2 open: the worst of the workers"), _add_breaker),
    (_gauge("shoal_ejected", "Endpoints that some worker has ejected now"), _add_ejected),
)
"""Of services, and how each is added to."""


def _buckets(bounds: list[float], counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, number in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += number
        buckets.append((bound, total))
    return buckets


def _in_common(workers: Sequence[dict[str, Any]]) -> list[Metric]:
    refused = CounterMetricFamily("shoal_refused_unrouted", "Refusals with no service behind them", labels=["policy"])
    policies = {policy for worker in workers for policy in worker.get("refused", {})}
    for policy in sorted(policies):
        refused.add_metric([policy], sum(worker.get("refused", {}).get(policy, 0) for worker in workers))
    worst = max((worker.get("loop_late_worst_s", 0.0) for worker in workers), default=0.0)
    return [
        refused,
        *(GaugeMetricFamily(name, text, value=_sum(workers, path)) for name, (text, *path) in _GAUGES.items()),
        *(CounterMetricFamily(name, text, value=_sum(workers, path)) for name, (text, *path) in _COUNTERS.items()),
        GaugeMetricFamily("shoal_worker_loop_late_worst_seconds", "Of the latest of the workers", value=worst),
    ]


def _sum(workers: Sequence[dict[str, Any]], path: Sequence[str]) -> float:
    total = 0.0
    for worker in workers:
        found: Any = worker
        for name in path:
            found = found.get(name, {})
        total += found or 0
    return total


_GAUGES: Final = {
    "shoal_authz_asked_open": ("Questions to Rego and OPAs without an answer yet", "judges", "open"),
    "shoal_connections_open": ("Client connections", "connections", "open"),
    "shoal_upstream_connections_open": ("Connections to endpoints", "pool", "open"),
    "shoal_upstream_connections_idle": ("Idle ones of them", "pool", "idle"),
    "shoal_tls_half_open": ("Handshakes of callers that are under way", "tls", "half_open"),
    "shoal_buffered_bytes": ("Held for those who do not take it yet", "buffers", "held"),
}
"""By name: the text, and where a worker's figures have it."""
_COUNTERS: Final = {
    "shoal_connections": ("Client connections accepted", "connections", "accepted"),
    "shoal_upstream_connects": ("Connections made to endpoints", "pool", "connects"),
    "shoal_upstream_strangers": (
        "Connections to instances of this host where another user's program listened",
        "pool",
        "strangers",
    ),
    "shoal_upstream_reuses": ("Requests sent over a connection from the pool", "pool", "reused"),
    "shoal_tls_handshakes": ("Handshakes of callers that came to something", "tls", "secured"),
    "shoal_tls_handshakes_failed": ("Handshakes of callers that came to nothing", "tls", "failed"),
    "shoal_tls_handshakes_displaced": ("Of those, how many had to make way for others", "tls", "displaced"),
    "shoal_tls_connections_ended": (
        "Connections that were cut because what had proven them was revoked, or had ended",
        "tls",
        "ended",
    ),
    "shoal_connections_cut_off": ("Slowest connections, closed as all held too much", "buffers", "cut_off"),
    "shoal_connections_made_way": ("Connections closed for others, without a request", "connections", "made_way"),
    "shoal_given_up_calls": (
        "Calls of services that every try was made for, by request and by trace",
        "given_up",
        "noted",
    ),
    "shoal_given_up_calls_lost": ("Of those, how many gave way to others too early", "given_up", "lost"),
    "shoal_authz_rego_answers": ("Questions to Rego that were answered", "judges", "rego_answers"),
    "shoal_authz_rego_failed": ("Questions to Rego without an answer", "judges", "rego_failed"),
    "shoal_authz_rego_seconds": ("How long those answers took", "judges", "rego_seconds"),
    "shoal_authz_rego_evaluators": ("Processes that evaluate Rego, started", "judges", "started"),
    "shoal_authz_opa_answers": ("Questions to OPAs that were answered", "judges", "opa_answers"),
    "shoal_authz_opa_failed": ("Questions to OPAs without an answer", "judges", "opa_failed"),
    "shoal_authz_opa_seconds": ("How long those answers took", "judges", "opa_seconds"),
    "shoal_counts_lost": (
        "What a worker counted by itself because there was no place where all of them count",
        "counts_lost",
    ),
    "shoal_spans": ("Spans that requests left", "spans", "made"),
    "shoal_spans_dropped": ("Of those, how many nobody took over from a worker in time", "spans", "lost"),
    "shoal_access_records_lost": ("Access records that nobody took", "records_lost"),
    "shoal_worker_loop_late_seconds": ("For how long workers were late", "loop_late_s"),
}
