"""Traces over real agents, hosts and services: one request is one tree, and a collector that is none costs nothing."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.etcd.server import free_port
from tests.support.collecting import real_collector
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until

Span = dict[str, Any]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


def sinks(folder: Path, host: str, port: int) -> str:
    """Of one host: a file, and a collector."""
    return (
        f'[[records.sinks]]\nname = "file"\nto = "{folder}/{host}.spans"\nkinds = ["traces"]\n'
        f'[[records.sinks]]\nname = "collector"\nto = "otlp+http://127.0.0.1:{port}"\nkinds = ["traces"]\n'
    )


def spans(folder: Path) -> dict[str, list[Span]]:
    """Of all hosts, by trace."""
    found: dict[str, list[Span]] = {}
    for path in folder.glob("*.spans"):
        for line in path.read_text().splitlines():
            span = json.loads(line)
            found.setdefault(span["trace_id"], []).append(span)
    return found


def tree(trace: list[Span]) -> list[str]:
    """Whose, of which side, and what came of it; beneath whom it stands, by its indent. Raises KeyError where a parent
    is missing."""
    by_id = {span["span_id"]: span for span in trace}

    def depth(span: Span) -> int:
        parent = span.get("parent_id", "")
        return 1 + depth(by_id[parent]) if parent else 0

    def place(span: Span) -> list[float]:
        parent = span.get("parent_id", "")
        return [*(place(by_id[parent]) if parent else []), span["time"]]

    return [
        f"{'  ' * depth(span)}{span['service'].removesuffix('.production')} {span['kind']} "
        f"{span['attributes'].get('shoal.try', '')}".rstrip()
        for span in sorted(trace, key=place)
    ]


DOCUMENTS = {
    "trace/*": {"share": 1},
    "retry/b.production": {"attempts": 3, "backoff": {"base": "1ms"}},
    "retry/c.production": {"attempts": 2, "hedge": {"after": "50ms"}},
    "balance/*": {"algorithm": "round-robin"},
}
WITH_BOTH = [
    "shoal client",
    "  a server",
    "    a client",
    "      a client first",
    "      a client retry",
    "        b server",
    "          b client",
    "            b client first",
    "              c server",
    "            b client hedge",
    "              c server",
]


def counted(agent: AgentProcess, name: str, **labels: str) -> float:
    for line in agent.text("/metrics").splitlines():
        if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    raise KeyError(name)


def test_one_request_is_one_tree(mesh: Mesh, tmp_path: Path) -> None:
    """a calls b calls c on another host: services that make no spans, but hand traceparent on. The first try at b meets
    nobody, and the first at c takes long. Whoever looks into the collector sees all of it; and when that hangs, and
    then dies, no request waits for it, and what is lost is counted."""
    with real_collector(tmp_path, "traces") as collector:
        output = collector.output
        alpha = staged(mesh, tmp_path, collector.port)
        trace = until("a retry and a hedge", lambda: with_both(alpha, tmp_path))
        assert tree(trace) == WITH_BOTH
        refused, cut = trace_span(trace, "a", "first"), trace_span(trace, "b", "first")
        assert refused["error"] == "connect" and cut["attributes"]["shoal.cancelled"] is True
        text = until("the collector", lambda: _told(output, trace))
        assert "host.name" in text and "beta" in text
        explained = json.loads(
            mesh.shoal(
                "--admin", str(alpha.socket), "--output", "json", "explain", "GET", "http://c.production/"
            ).stdout
        )
        assert {each["policy"] for each in explained["decisions"] if each["phase"] == "trace"} == {"trace/*"}
        _without_collector(mesh, alpha, collector.process)


def staged(mesh: Mesh, folder: Path, port: int) -> AgentProcess:
    """a and b on the first host, which is returned, c on another; b has an instance that nobody listens for, c one that
    takes long. Everything is traced, into files and to the collector at `port`."""
    alpha = mesh.agent(extra="workers = 2", local=sinks(folder, "alpha", port))
    beta = mesh.agent("beta", "127.0.0.2", local=sinks(folder, "beta", port))
    for key, document in DOCUMENTS.items():
        mesh.etcdctl("put", f"/shoal/default/policies/{key}", json.dumps(document))
    for name in "ab":
        mesh.caller(alpha, f"{name}.production")
    lasting = {"initially": True, "http": {}, "fall": 100, "interval": "5s"}
    alpha.register("b.production", free_port(), health=lasting)
    slow = mesh.instance(beta, service="c.production")
    mesh.instance(beta, service="c.production")
    until("both known", lambda: len(alpha.state()["services"]["c.production"]["endpoints"]) == 2)
    subprocess.run(["curl", "-sf", f"http://127.0.0.2:{slow}/set/slow"], check=True, capture_output=True)
    return alpha


def with_both(alpha: AgentProcess, folder: Path, known: Collection[str] = ()) -> list[Span] | None:
    """Asks, and gives a trace with a retry and a hedge that is none of `known`, by their ids, once there is one."""
    assert alpha.ask("a.production", "/via/b.production/c.production").status == 200
    return next((trace for id, trace in spans(folder).items() if id not in known and _is_whole(trace)), None)


def _is_whole(trace: list[Span]) -> bool:
    tries = {(span["service"], span["attributes"].get("shoal.try")) for span in trace}
    return len(trace) == len(WITH_BOTH) and {("a.production", "retry"), ("b.production", "hedge")} <= tries


def trace_span(trace: list[Span], service: str, which: str) -> Span:
    (found,) = [
        span
        for span in trace
        if span["service"] == f"{service}.production" and span["attributes"].get("shoal.try") == which
    ]
    return found


def _told(output: Path, trace: list[Span]) -> str:
    text = output.read_text(errors="replace")
    return text if all(span["span_id"] in text for span in trace) else ""


def _without_collector(mesh: Mesh, alpha: AgentProcess, collector: subprocess.Popen[bytes]) -> None:
    mesh.instance(alpha)
    with Traffic(alpha) as traffic:
        traffic.more(100)
        collector.send_signal(signal.SIGSTOP)
        traffic.more(200)
        collector.kill()
        traffic.more(200)
    assert traffic.failures == []
    until("told", lambda: any(each["trouble"] for each in alpha.state()["records"] if each["name"] == "collector"))
    made = counted(alpha, "shoal_spans_total")
    until("each of them in the file", lambda: counted(alpha, "shoal_records_total", sink="file") >= made)
    assert counted(alpha, "shoal_spans_dropped_total") == 0
    assert counted(alpha, "shoal_records_total", sink="collector") < made
