"""Whole traces in collectors of other people's: an OpenTelemetry collector and Jaeger. `scripts/interop` builds them,
and names their programs; without one its test has nothing to try, and says so."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.etcd.server import free_port
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until

OTELCOL = os.environ.get("SHOAL_OTELCOL", "")
JAEGER = os.environ.get("SHOAL_JAEGER", "")


@contextmanager
def program(argv: list[str], log: Path) -> Iterator[None]:
    with open(log, "wb") as file, subprocess.Popen(argv, stdout=file, stderr=file, cwd=log.parent) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def chain(folder: Path, port: int) -> Iterator[tuple[Mesh, AgentProcess]]:
    """a calls b calls c, which is on another host; everything is traced."""
    sink = f'[[records.sinks]]\nname = "it"\nto = "otlp+http://127.0.0.1:{port}"\nkinds = ["traces"]\n'
    with running_mesh(folder) as mesh:
        alpha = mesh.agent(extra="workers = 1", local=sink)
        beta = mesh.agent("beta", "127.0.0.2", local=sink)
        for name in "ab":
            mesh.caller(alpha, f"{name}.production")
        mesh.instance(beta, service="c.production")
        mesh.put("policies/trace/*", {"share": 1})
        until("c", lambda: alpha.state()["services"]["c.production"]["endpoints"])
        yield mesh, alpha


def asked(alpha: AgentProcess) -> None:
    answer = alpha.ask("a.production", "/via/b.production/c.production")
    assert answer.status == 200, answer.body


def get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@pytest.mark.skipif(not OTELCOL, reason="scripts/interop otelcol builds one")
def test_an_opentelemetry_collector(tmp_path: Path) -> None:
    """It takes what agents send, and prints whose it is, and what was asked."""
    port = free_port()
    (tmp_path / "otelcol.yaml").write_text(
        f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
        "exporters: {debug: {verbosity: detailed}}\n"
        "service:\n  telemetry: {metrics: {level: none}}\n"
        "  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}\n"
    )
    log = tmp_path / "otelcol.log"
    with program([OTELCOL, "--config", str(tmp_path / "otelcol.yaml")], log), chain(tmp_path, port) as (_, alpha):
        asked(alpha)
        wanted = (
            "service.name: Str(c.production)",
            "host.name: Str(beta)",
            "Kind           : Server",
            "shoal.endpoint",
        )
        until("c's span", lambda: all(each in log.read_text() for each in wanted))
        (state,) = alpha.state()["records"]
        assert state["trouble"] == "" and state["lost"] == {}


@pytest.mark.skipif(not JAEGER, reason="scripts/interop jaeger builds one")
def test_jaeger(tmp_path: Path) -> None:
    """It knows the services, shows one connected trace, and draws who calls whom."""
    port, shown = free_port(), free_port()
    (tmp_path / "jaeger.yaml").write_text(
        f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
        "exporters: {jaeger_storage_exporter: {trace_storage: here}}\n"
        "extensions:\n  jaeger_storage: {backends: {here: {memory: {max_traces: 1000}}}}\n"
        f"  jaeger_query: {{storage: {{traces: here}}, http: {{endpoint: '127.0.0.1:{shown}'}}, "
        f"grpc: {{endpoint: '127.0.0.1:{free_port()}'}}}}\n"
        "service:\n  extensions: [jaeger_storage, jaeger_query]\n  telemetry: {metrics: {level: none}}\n"
        "  pipelines: {traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}}\n"
    )
    server = program([JAEGER, "--config", str(tmp_path / "jaeger.yaml")], tmp_path / "jaeger.log")
    with server, chain(tmp_path, port) as (_, alpha):
        asked(alpha)

        def whole() -> Any:
            found = get(shown, "/api/traces?service=c.production")["data"]
            return next((each for each in found if len(each["spans"]) == 6), None)

        trace = until("one trace", whole)
        spans = {span["spanID"]: span for span in trace["spans"]}
        parents = [ref["spanID"] for span in spans.values() for ref in span["references"]]
        assert len(parents) == 5 and set(parents) <= spans.keys()
        assert not any(span.get("warnings") for span in spans.values())
        services = {each["serviceName"] for each in trace["processes"].values()}
        assert services == {"shoal", "a.production", "b.production", "c.production"}
        edges = until(
            "edges", lambda: get(shown, "/api/dependencies?endTs=9999999999999&lookback=9999999999999")["data"]
        )
        assert {("a.production", "b.production"), ("b.production", "c.production")} <= {
            (each["parent"], each["child"]) for each in edges
        }
