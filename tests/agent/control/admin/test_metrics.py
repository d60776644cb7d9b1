"""/metrics: what Prometheus' conventions want of it, its two formats, and that nobody waits for it."""

from __future__ import annotations

import gc
import re
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from agent.control.admin.metrics.of_control import COUNTERS, GAUGES, Figures
from agent.control.admin.metrics.of_workers import write_workers
from agent.control.admin.metrics.page import render
from agent.control.admin.metrics.text import Writer, asks_for_open_metrics
from agent.proxy.report import state
from agent.proxy.report.signals import CANCELLED, Key
from agent.proxy.report.stats import ServiceStats
from agent.proxy.runtime import Runtime

OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
UNITS = ("_seconds", "_bytes")
EDGE: Key = (True, "shop", "rules[0]", "v1", "")
LABELS = {"service": "pets", "caller": "shop", "route": "rules[0]", "version": "v1", "peer": "", "hop": "first"}
NO_UNITS = re.compile(r"_(ms|millis|milliseconds|us|minutes|hours|kb|kib|mb|percent|ratio_percent)(_|$)")


def seen(requests: int = 3) -> dict[str, Any]:
    """Of a worker with a service, with something in each of its counters."""
    stats = ServiceStats()
    for number in range(requests):
        stats.signals.observe(EDGE, 200, number / 10, 5.0)
    stats.signals.observe((False, 'a"\n\\%s', "", "v1", "web-2"), 503, 0.02, 5.0)
    stats.signals.remember(EDGE, "4bf92f3577b34da6a3ce929d0e0e4736", 0.1, 1764201600.25)
    for counters in (stats.refused, stats.failures, stats.audit, stats.copies, stats.shed, stats.limited, stats.faults):
        counters["some"] = 1
    stats.failures.update(retries=1, hedges=2, hedges_won=1)
    stats.signals.observe((False, 'a"\n\\%s', "", "v1", "web-2"), CANCELLED, 0.02, 5.0)
    stats.flagged["service.timeout\tfirst"] = 1
    stats.refused_second["authz"] = 1
    stats.transitions["open"] = stats.ejections['a"\n\\'] = 1
    told = state.metrics(Runtime())
    return {
        **told,
        "refused": {"http": 1},
        "services": {"pets": {**stats.as_frame(), "breaker": {"open": 1}, "ejected": {}}},
    }


def told() -> Figures:
    """Of control, with all that it counts."""
    counters = {(name, *(f"a {label}" for label in labels)): 1.0 for name, (_, *labels) in COUNTERS.items()}
    topic = {"url": "pulsar://b/t", "waiting": 1, "bytes": 2}
    return Figures(dict.fromkeys(GAUGES, 1.0), counters, [topic], [("0", 1), ("previous", 1)])


def families(accept: str = "") -> list[Metric]:
    page, media_type = render([seen(), seen(2)], told(), accept)
    parse = open_metrics if "openmetrics" in media_type else text_format
    return list(parse(page.decode()))


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", OPEN, f"{OPEN},text/plain;version=0.0.4;q=0.5"])
def test_conventions(accept: str) -> None:
    """Of every family: a text, a type, base units, `_total` on what is cumulative and on nothing else, one label set a
    sample, no timestamps, and nothing twice."""
    found = families(accept)
    names = [family.name for family in found]
    assert len(names) == len(set(names)) > 40
    for family in found:
        assert family.documentation.strip(), family.name
        assert family.type != "unknown" and re.match(r"(shoal|process)_[a-z_]+$", family.name), family.name
        assert not NO_UNITS.search(family.name)
        seen_labels = set()
        for sample in family.samples:
            assert sample.timestamp is None
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in seen_labels
            seen_labels.add(key)
            total = sample.name.endswith("_total")
            assert total == (family.type == "counter"), sample.name
            if family.type == "gauge" and family.name != "shoal_build_info":
                assert not sample.name.endswith(("_count", "_sum", "_bucket", "_info"))
    timed = [name for name in names if re.search("late|age|duration|cpu|start_time", name)]
    assert [name for name in timed if not name.endswith(UNITS)] == ["shoal_control_loop_late"]  # how often
    assert "shoal_scrape_time_seconds" not in names


def test_both_formats_say_the_same() -> None:
    """OpenMetrics to who asks for it, Prometheus' text format to everybody else."""
    assert render([], told(), OPEN)[0].endswith(b"# EOF\n")
    assert render([], told(), OPEN)[1].startswith("application/openmetrics-text; version=1.0.0")
    assert render([], told())[1].startswith("text/plain; version=0.0.4")
    plain = {(s.name, *sorted(s.labels.items())) for f in families() for s in f.samples}
    assert plain == {(s.name, *sorted(s.labels.items())) for f in families(OPEN) for s in f.samples}


def value(found: list[Metric], name: str, **labels: str) -> float:
    (sample,) = [s for f in found for s in f.samples if s.name == name and s.labels == labels]
    return float(sample.value)


def test_workers_are_added_up() -> None:
    """Counters, histograms and hedges; of the breaker the worst counts."""
    found = families()
    assert value(found, "shoal_requests_total", **LABELS, status="2xx") == 5
    assert value(found, "shoal_request_duration_seconds_count", **LABELS) == 5
    assert value(found, "shoal_request_duration_seconds_sum", **LABELS) == pytest.approx(0.4)
    assert value(found, "shoal_request_duration_seconds_bucket", **LABELS, le="0.064") == 2
    assert value(found, "shoal_request_duration_seconds_bucket", **LABELS, le="+Inf") == 5
    second = {"caller": 'a"\n\\%s', "route": "", "peer": "web-2", "hop": "second"}
    assert value(found, "shoal_requests_total", **{**LABELS, **second}, status="5xx") == 2
    assert value(found, "shoal_request_duration_seconds_bucket", **{**LABELS, **second}, le="0.032") == 4
    assert value(found, "shoal_requests_total", **{**LABELS, **second}, status="cancelled") == 2
    assert value(found, "shoal_requests_flagged_total", service="pets", flag="service.timeout", hop="first") == 2
    assert value(found, "shoal_hedges_total", service="pets", won="true") == 2
    assert value(found, "shoal_refused_unrouted_total", policy="http") == 2
    assert value(found, "shoal_refused_total", service="pets", policy="some", hop="first") == 2
    assert value(found, "shoal_refused_total", service="pets", policy="authz", hop="second") == 2
    assert value(found, "shoal_breaker_state", service="pets") == 2
    assert value(found, "shoal_ejections_total", service="pets", endpoint='a"\n\\') == 2


def test_exemplars_are_for_open_metrics() -> None:
    """The trace that a bucket's last request was of stands behind it, where the format has a place for it."""
    (duration,) = [family for family in families(OPEN) if family.name == "shoal_request_duration_seconds"]
    shown = [sample for sample in duration.samples if sample.exemplar is not None]
    assert [sample.labels["le"] for sample in shown] == ["0.128"]
    exemplar = shown[0].exemplar
    assert exemplar is not None and exemplar.labels == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert (exemplar.value, float(exemplar.timestamp or 0)) == (0.1, 1764201600.25)
    assert b"4bf92f3577b34da6a3ce929d0e0e4736" not in render([seen()], told())[0]


def test_what_was_folded_away_is_counted() -> None:
    """Requests of edges beyond the bound, and names of counters."""
    stats = seen()
    stats["services"]["pets"].update(folded=7, authorized={"others": 3, "d\tr\tallowed": 1}, plain={"others": 2})
    found = list(text_format(render([stats], told())[0].decode()))
    for what, number in (("requests", 7), ("authorized", 3), ("plain", 2)):
        assert value(found, "shoal_series_folded_total", service="pets", what=what) == number
    others = {"document": "others", "rule": "others", "verdict": "others"}
    assert value(found, "shoal_authz_total", service="pets", **others) == 3


def test_who_asks_for_open_metrics() -> None:
    for accept in (OPEN, "text/html, application/OpenMetrics-Text;q=0.5"):
        assert asks_for_open_metrics(accept)
    for accept in (
        "",
        "*/*",
        "text/plain",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text; q=0.000",
    ):
        assert not asks_for_open_metrics(accept)


def test_what_runs_and_what_it_takes() -> None:
    """Version, build and Python; control's process as any program's, its workers' with labels."""
    found = families()
    (info,) = [s for f in found for s in f.samples if s.name == "shoal_build_info"]
    assert set(info.labels) == {"version", "build", "python"} and info.value == 1
    assert value(found, "process_start_time_seconds") > 1e9
    assert value(found, "process_cpu_seconds_total") > 0
    assert value(found, "process_resident_memory_bytes", worker="0", pid="1") >= 0


def test_a_worker_of_another_version() -> None:
    """What it does not tell counts as nothing; one that knew no edges has one, by the bounds of now."""
    before = {
        "requests": {"2xx": 2, "gone": 1},
        "duration_buckets": [1, 2, 0],
        "duration_sum_s": 0.5,
        "active": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        **{name: {} for name in ("refused", "failures", "audit", "breaker", "ejected", "ejections")},
    }
    old = {"services": {"pets": before}, "duration_bounds_s": [0.01, 1.0]}
    page, _ = render([{"services": {}}, old, seen(1)], told())
    found = list(text_format(page.decode()))
    assert value(found, "shoal_requests_total", **LABELS, status="2xx") == 1
    unknown = {"service": "pets", "caller": "", "route": "", "version": "", "peer": "", "hop": "first"}
    assert value(found, "shoal_requests_total", **unknown, status="2xx") == 2
    assert value(found, "shoal_requests_total", **unknown, status="gone") == 1
    assert value(found, "shoal_request_duration_seconds_bucket", **unknown, le="0.016") == 1
    assert value(found, "shoal_request_duration_seconds_bucket", **unknown, le="1.024") == 3
    assert render([], told())[0] and render([old], told())[0]


def test_no_object_stands_for_a_line() -> None:
    """So many small ones would have the collector of garbage look at everything, in one pause."""
    many = [{**seen(), "services": {f"s{n}": service for n in range(300) for service in seen()["services"].values()}}]
    gc.collect()
    page = Writer(open_metrics=True)
    before = len(gc.get_objects())
    write_workers(page, many)
    held = len(gc.get_objects()) - before
    lines = page.page().count(b"\n")
    assert lines > 300 * 60 and held < lines / 20, (held, lines)
