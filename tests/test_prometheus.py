"""What deploy/prometheus/ holds works: by promtool, by what a page of ours has, by a real Prometheus of a real mesh."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.etcd.server import free_port
from tests.agent.control.admin.test_metrics import OPEN, render, seen, told
from tests.support.mesh import DIRECT, ROOT, Mesh, Traffic, running_mesh, until

HERE = ROOT / "deploy" / "prometheus"
RULES = HERE / "shoal.rules.yml"
DASHBOARD = json.loads((HERE / "dashboard.json").read_text())
PAGE = (ROOT / "docs" / "metrics.md").read_text()
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian's package prometheus)")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus")
WORDS = re.compile(r"\b(?:shoal|process)_[a-z_]+\b")
THEIRS = {"up", "ALERTS"}


def promtool(*words: str, text: bytes = b"") -> str:
    done = subprocess.run(["promtool", *words], input=text, capture_output=True, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return (done.stdout + done.stderr).decode()


def names() -> dict[str, str]:
    """Every name that a sample of a page can have, with the type of its family."""
    page = render([seen()], told(), OPEN)[0].decode()
    found: dict[str, str] = {}
    for name, type in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
        found.update({name + ending: type for ending in endings.get(type, ("",))})
    return found


def queries() -> list[tuple[str, str]]:
    """Of the dashboard: where, and what it asks."""
    found = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    variables = DASHBOARD["templating"]["list"]
    return found + [(each["name"], each["query"]["query"]) for each in variables if each["type"] == "query"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


# What stands in the files.


@needs_promtool
@pytest.mark.parametrize("workers", [[], [seen()], [seen(), seen(2)]])
def test_the_page_is_what_promtool_wants(workers: list[dict[str, Any]]) -> None:
    """Not a word against any name, text or type."""
    assert promtool("check", "metrics", text=render(workers, told())[0]).strip() == ""


@needs_promtool
def test_the_settings_and_the_rules_are_good() -> None:
    assert "SUCCESS" in promtool("check", "config", str(HERE / "prometheus.yml"))
    promtool("test", "rules", str(HERE / "shoal.rules.test.yml"))


def test_every_rule_is_tested() -> None:
    """And nothing that is none."""
    tested = set(re.findall(r'alertname="(Shoal\w+)"}\'', (HERE / "shoal.rules.test.yml").read_text()))
    assert tested == {rule["alert"] for rule in rules()} and len(tested) == len(rules()) > 15


def test_every_query_has_its_metric() -> None:
    """Of rules and of the dashboard: a name that a page has, and no rate of what is no counter."""
    known = names()
    asked = [(rule["alert"], rule["expr"]) for rule in rules()] + queries()
    assert len(asked) > 60
    for where, query in asked:
        used = set(WORDS.findall(query))
        assert used or "up{" in query, where
        assert used <= set(known), (where, used - set(known))
        for name in re.findall(r"(?:rate|increase)\((\w+)", query):
            assert known[name] in ("counter", "histogram"), (where, name)
        for name in re.findall(r"label_values\((\w+)", query):
            assert name in known


@needs_promtool
def test_every_query_of_the_dashboard_can_be_asked(tmp_path: Path) -> None:
    """Grafana's variables filled in."""
    filled = [
        query.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$service", ".*")
        for _, query in queries()
        if not query.startswith("label_values")
    ]
    made = {"groups": [{"name": "d", "rules": [{"record": f"q{n}", "expr": query} for n, query in enumerate(filled)]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(made))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_panels_are_told_apart() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_every_metric_is_on_the_page_of_the_documentation() -> None:
    """And none that is not there."""
    written = {name.removesuffix("_total") for name in re.findall(r"`((?:shoal|process)_[a-z_]+)`", PAGE)}
    page = render([seen()], told(), OPEN)[0].decode()
    assert written == {
        name + ("_info" if type == "info" else "")
        for name, type in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    }


# A real one.


class Prometheus:
    """With the settings and the rules of deploy/, but for how long things take."""

    def __init__(self, folder: Path, mesh: Mesh, port: int) -> None:
        folder.mkdir()
        self.port = free_port()
        agents = [agent.address for agent in mesh.agents[:2]]
        text = (HERE / "prometheus.yml").read_text().replace("15s", "1s").replace("30s", "1s")
        for proposed, address in zip(("10.0.0.11:15090", "10.0.0.12:15090"), agents, strict=True):
            assert proposed in text
            text = text.replace(proposed, f"{address}:{port}")
        (folder / "prometheus.yml").write_text(text)
        rules = re.sub(r"for: \d+m", "for: 1s", re.sub(r"\[\d+[mh]\]", "[5s]", RULES.read_text()))
        (folder / "shoal.rules.yml").write_text(rules)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with DIRECT.open(url, timeout=5) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> dict[str, float]:
        """By instance, alert or service, whichever there is."""
        found = self.get("query", query=query)["result"]
        keys = ("alertname", "instance", "service")
        return {next((r["metric"][k] for k in keys if k in r["metric"]), ""): float(r["value"][1]) for r in found}

    def firing(self) -> set[str]:
        return set(self.ask('ALERTS{alertstate="firing"}'))


@contextmanager
def prometheus(folder: Path, mesh: Mesh, port: int) -> Iterator[Prometheus]:
    made = Prometheus(folder, mesh, port)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(20)


@needs_prometheus
def test_a_real_prometheus(tmp_path: Path) -> None:
    """It finds three agents by asking one, sees a request once though two agents had it, keeps the trace behind a
    bucket, and says so when a service breaks, when an agent is killed, and when nothing is wrong any more."""
    port = free_port()
    with running_mesh(tmp_path) as mesh:
        for number, host in enumerate(("alpha", "beta", "gamma"), 1):
            address = f"127.0.0.{number}"
            mesh.agent(host, address, extra=f'metrics = {{ listen = "{address}:{port}" }}', lease_ttl="5s")
        alpha, beta, gamma = mesh.agents
        mesh.instance(beta, "v1")
        mesh.instance(gamma, "v2")
        mesh.shoal("wait")
        with prometheus(tmp_path / "prometheus", mesh, port) as asked, Traffic(alpha, threads=1):
            until("three are scraped", lambda: asked.ask("up") == {"alpha": 1, "beta": 1, "gamma": 1}, 60)
            trace = "4bf92f3577b34da6a3ce929d0e0e4736"
            alpha.ask(traceparent=f"00-{trace}-00f067aa0ba902b7-01")
            rate = 'sum by (hop) (rate(shoal_requests_total{service="pets.production"}[5s]))'
            until("both hops", lambda: len(asked.get("query", query=rate)["result"]) == 2, 60)
            first = {(r["metric"]["version"], r["metric"]["peer"]) for r in edges(asked, "first")}
            second = {(r["metric"]["version"], r["metric"]["peer"]) for r in edges(asked, "second")}
            assert first == {("v1", "beta"), ("v2", "gamma")} and second == {("v1", "alpha"), ("v2", "alpha")}
            until("the trace", lambda: trace in json.dumps(exemplars(asked)), 60)
            assert not asked.firing() & {"ShoalServiceErrors", "ShoalAgentDown", "ShoalEtcdAway"}

            expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            broken = {"expires": expires, "rules": [{"percent": 60, "abort": {"status": 503}}]}
            mesh.put("policies/fault/pets.production", broken)
            until("it says so", lambda: "ShoalServiceErrors" in asked.firing(), 90)
            gamma.stop(9)
            until("an agent was killed", lambda: "ShoalAgentDown" in asked.firing(), 90)
            until(
                "whose key is gone",
                lambda: "gamma" not in mesh.etcdctl("get", "--prefix", "/shoal/default/agents/"),
                60,
            )
            assert asked.ask("up")["gamma"] == 0, "and which is not forgotten for that"
            mesh.etcdctl("del", "/shoal/default/policies/fault/pets.production")
            gamma.start()
            calm = {"ShoalServiceErrors", "ShoalAgentDown"}
            until("all is well", lambda: not asked.firing() & calm and asked.ask("up").get("gamma") == 1, 120)


def edges(asked: Prometheus, hop: str) -> list[Any]:
    found = asked.get("query", query=f'shoal_requests_total{{service="pets.production",status="2xx",hop="{hop}"}} > 0')
    return list(found["result"])


def exemplars(asked: Prometheus) -> Any:
    return asked.get(
        "query_exemplars", query="shoal_request_duration_seconds_bucket", start="1600000000", end="4000000000"
    )
