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
from agent.control.admin.metrics.of_workers import of_workers
from agent.control.admin.metrics.page import render
from agent.proxy.report import state
from agent.proxy.report.stats import ServiceStats
from agent.proxy.runtime import Runtime

OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
UNITS = ("_seconds", "_bytes")
NO_UNITS = re.compile(r"_(ms|millis|milliseconds|us|minutes|hours|kb|kib|mb|percent|ratio_percent)(_|$)")


def seen(requests: int = 3) -> dict[str, Any]:
    """Of a worker with a service, with something in each of its counters."""
    stats = ServiceStats()
    for number in range(requests):
        stats.observe(200, number / 10)
    for counters in (stats.refused, stats.failures, stats.audit, stats.copies, stats.shed, stats.limited, stats.faults):
        counters["some"] = 1
    stats.failures.update(retries=1, hedges=2, hedges_won=1)
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
    assert value(found, "shoal_requests_total", service="pets", status="2xx") == 5
    assert value(found, "shoal_request_duration_seconds_count", service="pets") == 5
    assert value(found, "shoal_hedges_total", service="pets", won="true") == 2
    assert value(found, "shoal_refused_unrouted_total", policy="http") == 2
    assert value(found, "shoal_breaker_state", service="pets") == 2
    assert value(found, "shoal_ejections_total", service="pets", endpoint='a"\n\\') == 2


def test_what_runs_and_what_it_takes() -> None:
    """Version, build and Python; control's process as any program's, its workers' with labels."""
    found = families()
    (info,) = [s for f in found for s in f.samples if s.name == "shoal_build_info"]
    assert set(info.labels) == {"version", "build", "python"} and info.value == 1
    assert value(found, "process_start_time_seconds") > 1e9
    assert value(found, "process_cpu_seconds_total") > 0
    assert value(found, "process_resident_memory_bytes", worker="0", pid="1") >= 0


def test_a_worker_of_another_version() -> None:
    """What it does not tell counts as nothing; the page is there."""
    page, _ = render([{"services": {}}, seen(1)], told())
    assert value(list(text_format(page.decode())), "shoal_requests_total", service="pets", status="2xx") == 1
    assert render([], told())[0]


def test_samples_are_made_while_they_are_written() -> None:
    """Held all at once they are so many objects that the collector of garbage looks at everything, in one pause."""
    many = [{**seen(), "services": {f"s{n}": service for n in range(300) for service in seen()["services"].values()}}]
    gc.collect()
    before = len(gc.get_objects())
    made = of_workers(many)
    held = len(gc.get_objects()) - before
    samples = sum(1 for family in made for _ in family.samples)
    assert samples > 300 * 30 and held < samples / 4, (held, samples)
    assert samples == sum(1 for family in made for _ in family.samples), "and again, for who asks twice"
