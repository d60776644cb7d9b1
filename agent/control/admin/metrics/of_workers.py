"""What workers counted, added up: metrics of services, and of what workers have in common. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from agent.control.admin.metrics.of_edges import write_edges
from agent.control.admin.metrics.text import COUNTER, GAUGE, Family, Writer
from agent.control.admin.state import WORST
from agent.control.workers import edges

Rows: TypeAlias = Iterator[tuple[tuple[str, ...], float]]
"""Values of the labels behind the service, and the number."""
Of: TypeAlias = Callable[[dict[str, Any]], Rows]
"""What a family has of one service."""

OTHERS: Final = "others"


def write_workers(page: Writer, workers: Sequence[dict[str, Any]]) -> None:
    """From each one's figures; those of another version may lack some."""
    bounds, alike = edges.aligned(workers)
    added = sorted(_added(alike).items())
    write_edges(page, added, bounds)
    for family, of in _FAMILIES:
        page.write(family, (((name, *labels), number) for name, service in added for labels, number in of(service)))
    _write_in_common(page, workers)


def _added(workers: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every service's counters, summed over the workers."""
    total: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, service in worker.get("services", {}).items():
            into = total.setdefault(name, {})
            for field, value in service.items():
                into[field] = _plus(field, into.get(field), value)
    return total


def _plus(field: str, one: Any, other: Any) -> Any:
    if one is None:
        return other
    if field == "edges":
        return edges.plus(one, other)
    if field == "limit":
        return max(one, other)
    if field == "exemplars":
        return [*one, *other]
    if isinstance(other, dict):
        return {key: one.get(key, 0) + other.get(key, 0) for key in one.keys() | other.keys()}
    if isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=False)]
    return one + other


def _by_label(field: str, labels: int = 1) -> Of:
    """A sample for each name that a field of a service has; names of several labels have tabs between them."""

    def rows(service: dict[str, Any]) -> Rows:
        for words, number in sorted(service.get(field, {}).items()):
            values = tuple(words.split("\t")) if words != OTHERS else (OTHERS,) * labels
            if len(values) == labels:  # a worker of before may count in another way
                yield values, number

    return rows


def _one(value: Callable[[dict[str, Any]], float]) -> Of:
    """One sample for each service."""

    def rows(service: dict[str, Any]) -> Rows:
        yield (), value(service)

    return rows


def _failures(service: dict[str, Any]) -> Rows:
    for kind, number in sorted(service["failures"].items()):
        if kind not in ("retries", "hedges", "hedges_won"):
            yield (kind,), number


def _refused(service: dict[str, Any]) -> Rows:
    for hop, field in (("first", "refused"), ("second", "refused_second")):
        for policy, number in sorted(service.get(field, {}).items()):
            yield (policy, hop), number


def _hedges(service: dict[str, Any]) -> Rows:
    won = service["failures"].get("hedges_won", 0)
    yield ("true",), won
    yield ("false",), service["failures"].get("hedges", 0) - won


def _breaker(service: dict[str, Any]) -> Rows:
    if service["breaker"]:
        yield (), max(WORST[state] for state in service["breaker"])


def _ejected(service: dict[str, Any]) -> Rows:
    if service["ejections"]:
        yield (), len(service["ejected"])


def _where(field: str) -> Of:
    """One sample for each service that has such a figure, and more than nothing of it."""

    def rows(service: dict[str, Any]) -> Rows:
        if service.get(field):
            yield (), service[field]

    return rows


def _folded(service: dict[str, Any]) -> Rows:
    yield ("requests",), service.get("folded", 0)
    for field in _NAMED:
        number = service.get(field, {}).get(OTHERS, 0)
        if number:
            yield (field,), number


_NAMED: Final = (
    "audit",
    "authenticated",
    "authorized",
    "callers",
    "ejections",
    "faults",
    "flagged",
    "judged",
    "limited",
    "outside",
    "plain",
    "refused",
    "refused_second",
    "shed",
)
"""Counters by names that others choose."""


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(name, COUNTER, text, ("service", *labels))


def _gauge(name: str, text: str) -> Family:
    return Family(name, GAUGE, text, ("service",))


_FAMILIES: Final[tuple[tuple[Family, Of], ...]] = (
    (_counter("shoal_refused", "Answers of the mesh's own", *("policy", "hop")), _refused),
    (
        _counter(
            "shoal_requests_flagged", "Requests without an instance's whole answer, by whose fault", "flag", "hop"
        ),
        _by_label("flagged", 2),
    ),
    (_counter("shoal_attempts_failed", "Failed attempts by kind", "kind"), _failures),
    (_counter("shoal_retries", "Attempts made again"), _one(lambda service: service["failures"].get("retries", 0))),
    (_counter("shoal_hedges", "Second attempts beside slow ones", "won"), _hedges),
    (
        _counter(
            "shoal_audit",
            "What was done, and what a document that is only watched would have done",
            *("kind", "document", "done", "would"),
        ),
        _by_label("audit", 4),
    ),
    (_counter("shoal_authn", "What tokens came to", *("document", "verdict")), _by_label("authenticated", 2)),
    (_counter("shoal_authz", "What rules decided", *("document", "rule", "verdict")), _by_label("authorized", 3)),
    (
        _counter("shoal_authz_asked", "What was asked besides rules", *("document", "who", "outcome")),
        _by_label("judged", 3),
    ),
    (_counter("shoal_request_bytes", "Bytes of request bodies"), _one(lambda service: service["bytes_in"])),
    (_counter("shoal_response_bytes", "Bytes of response bodies"), _one(lambda service: service["bytes_out"])),
    (_gauge("shoal_requests_active", "Requests in flight"), _one(lambda service: service["active"])),
    (
        _gauge("shoal_requests_pending", "Requests that wait for a connection to an endpoint"),
        _one(lambda service: service.get("pending", 0)),
    ),
    (
        _gauge("shoal_service_connections_open", "Connections to its endpoints"),
        _one(lambda service: service.get("connections", 0)),
    ),
    (_gauge("shoal_shed_limit", "Requests that its instances of this host may have at a time"), _where("limit")),
    (
        _gauge("shoal_backpressure_window", "Requests that it may have under way while what it calls has no room"),
        _where("window"),
    ),
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
    (_gauge("shoal_breaker_state", "0 closed, 1 half-open, 2 open: the worst of the workers"), _breaker),
    (_gauge("shoal_ejected", "Endpoints that some worker has ejected now"), _ejected),
    (
        _counter(
            "shoal_series_folded", "What was counted as others', because there were too many to be told apart", "what"
        ),
        _folded,
    ),
)
"""Of services, and what each has of them."""


def _write_in_common(page: Writer, workers: Sequence[dict[str, Any]]) -> None:
    policies = {policy for worker in workers for policy in worker.get("refused", {})}
    refused = Family("shoal_refused_unrouted", COUNTER, "Refusals with no service behind them", ("policy",))
    page.write(
        refused,
        (
            ((policy,), sum(worker.get("refused", {}).get(policy, 0) for worker in workers))
            for policy in sorted(policies)
        ),
    )
    for type, figures in ((GAUGE, _GAUGES), (COUNTER, _COUNTERS)):
        for name, (text, *path) in figures.items():
            page.write(Family(name, type, text), [((), _sum(workers, path))])
    worst = max((worker.get("loop_late_worst_s", 0.0) for worker in workers), default=0.0)
    page.write(Family("shoal_worker_loop_late_worst_seconds", GAUGE, "Of the latest of the workers"), [((), worst)])


def _sum(workers: Sequence[dict[str, Any]], path: Sequence[str]) -> float:
    total = 0.0
    for worker in workers:
        found: Any = worker
        for name in path:
            found = found.get(name, {})
        total += found or 0
    return total


_GAUGES: Final[Mapping[str, tuple[str, ...]]] = {
    "shoal_authz_asked_open": ("Questions to Rego and OPAs without an answer yet", "judges", "open"),
    "shoal_connections_open": ("Client connections", "connections", "open"),
    "shoal_upstream_connections_open": ("Connections to endpoints", "pool", "open"),
    "shoal_upstream_connections_idle": ("Idle ones of them", "pool", "idle"),
    "shoal_tls_half_open": ("Handshakes of callers that are under way", "tls", "half_open"),
    "shoal_buffered_bytes": ("Held for those who do not take it yet", "buffers", "held"),
}
"""By name: the text, and where a worker's figures have it."""
_COUNTERS: Final[Mapping[str, tuple[str, ...]]] = {
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
