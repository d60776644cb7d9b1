"""Whole traces in collectors of other people's: an OpenTelemetry collector and Jaeger, also where they are slowed down,
refuse, and are killed. `scripts/interop` builds them, and names their programs; without one its test has nothing to
try, and says so."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from registry.etcd.server import free_port
from tests.support.mesh import AgentProcess, Traffic, running_mesh, until
from tests.system.test_traces import WITH_BOTH, Span, spans, staged, tree, with_both

OTELCOL = os.environ.get("SHOAL_OTELCOL", "")
JAEGER = os.environ.get("SHOAL_JAEGER", "")
Start = Callable[[int], Any]
"""Starts the collector at a port; ends with its context."""


class Door(ThreadingHTTPServer):
    """Before a collector: gives these answers, and hands on all that comes later."""

    daemon_threads = True

    def __init__(self, port: int, behind: int) -> None:
        super().__init__(("127.0.0.1", port), _Answering)
        self.behind = behind
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.given = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Nobody listens any more."""
        self.shutdown()
        self.server_close()


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.answers:
            status, headers = self.server.answers.pop(0)
            self.server.given += 1
            self._answer(status, headers, b"")
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=10)
        try:
            behind.request("POST", self.path, body, dict(self.headers.items()))
            answer = behind.getresponse()
            self._answer(answer.status, {"content-type": answer.getheader("content-type", "")}, answer.read())
        finally:
            behind.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body)), "connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def program(argv: list[str], log: Path, ready: int) -> Iterator[subprocess.Popen[bytes]]:
    """It runs, and listens at `ready`."""
    with open(log, "ab") as file, subprocess.Popen(argv, stdout=file, stderr=file, cwd=log.parent) as process:
        try:
            until("it listens", lambda: process.poll() is not None or listens(ready), 60)
            assert process.poll() is None, log.read_text()[-2000:]
            yield process
        finally:
            process.kill()


def listens(port: int) -> bool:
    try:
        get(port, "/")
    except ConnectionError:
        return False
    except (http.client.HTTPException, ValueError):
        pass
    return True


def get(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def sink(agent: AgentProcess) -> Any:
    """What the agent says of its collector."""
    (found,) = [each for each in agent.state()["records"] if each["name"] == "collector"]
    return found


def told(folder: Path, start: Start, is_there: Callable[[list[Span]], bool]) -> None:
    """Traces of a, b and c with a retry and a hedge get there whole: after a 429, after a 400, and after the collector
    was killed, while no request waits for it. `is_there`: whether the collector has all of a trace."""
    door = Door(free_port(), free_port())
    port = door.server_port
    with running_mesh(folder) as mesh:
        with start(door.behind) as process:
            door.answers = [(429, {"retry-after": "1"})] * 2
            alpha = staged(mesh, folder, port)
            trace = until("a retry and a hedge", lambda: with_both(alpha, folder))
            assert tree(trace) == WITH_BOTH
            until("all of it", lambda: is_there(trace))
            until("nothing is amiss", lambda: sink(alpha)["trouble"] == "")
            assert door.given == 2 and sink(alpha)["lost"] == {}, "what is asked to wait comes later, and is whole"

            door.answers = [(400, {})]
            until("a batch", lambda: with_both(alpha, folder) and door.given == 3)
            until("it is counted", lambda: sum(sink(agent)["lost"].get("traces", 0) for agent in mesh.agents) > 0)
            known = spans(folder)
            trace = until("the next one", lambda: with_both(alpha, folder, known))
            until("all of it, too", lambda: is_there(trace))

            mesh.instance(alpha)
            with Traffic(alpha) as traffic:
                traffic.more(100)
                process.kill()
                door.close()
                traffic.more(300)
            assert traffic.failures == []
            until("it is missed", lambda: sink(alpha)["trouble"] != "")
        with start(port):
            known = spans(folder)
            trace = until("one for the new one", lambda: with_both(alpha, folder, known))
            until("all of it, again", lambda: is_there(trace), 60)
            until("all is well", lambda: sink(alpha)["trouble"] == "", 60)


@pytest.mark.skipif(not OTELCOL, reason="scripts/interop otelcol builds one")
def test_an_opentelemetry_collector(tmp_path: Path) -> None:
    """It takes what agents send, and prints whose it is, and what was asked."""
    log = tmp_path / "otelcol.log"

    @contextmanager
    def start(port: int) -> Iterator[subprocess.Popen[bytes]]:
        settings = tmp_path / f"otelcol-{port}.yaml"
        settings.write_text(
            f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
            "exporters: {debug: {verbosity: detailed}}\n"
            "service:\n  telemetry: {metrics: {level: none}}\n"
            "  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}\n"
        )
        with program([OTELCOL, "--config", str(settings)], log, port) as process:
            yield process

    def is_there(trace: list[Span]) -> bool:
        text = log.read_text(errors="replace")
        return all(f": {span['span_id']}\n" in text for span in trace)

    told(tmp_path, start, is_there)
    text = log.read_text(errors="replace")
    for wanted in ("service.name: Str(c.production)", "host.name: Str(beta)", "Kind           : Server", "shoal.try"):
        assert wanted in text


@pytest.mark.skipif(not JAEGER, reason="scripts/interop jaeger builds one")
def test_jaeger(tmp_path: Path) -> None:
    """It knows the services, shows one connected trace, and draws who calls whom."""
    shown = free_port()

    @contextmanager
    def start(port: int) -> Iterator[subprocess.Popen[bytes]]:
        settings = tmp_path / f"jaeger-{port}.yaml"
        settings.write_text(
            f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
            "exporters: {jaeger_storage_exporter: {trace_storage: here}}\n"
            "extensions:\n  jaeger_storage: {backends: {here: {memory: {max_traces: 1000}}}}\n"
            f"  jaeger_query: {{storage: {{traces: here}}, http: {{endpoint: '127.0.0.1:{shown}'}}, "
            f"grpc: {{endpoint: '127.0.0.1:{free_port()}'}}}}\n"
            "service:\n  extensions: [jaeger_storage, jaeger_query]\n  telemetry: {metrics: {level: none}}\n"
            "  pipelines: {traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}}\n"
        )
        with program([JAEGER, "--config", str(settings)], tmp_path / "jaeger.log", port) as process:
            yield process

    def is_there(trace: list[Span]) -> bool:
        found = get(shown, f"/api/traces/{trace[0]['trace_id']}").get("data") or []
        return any({span["spanID"] for span in each["spans"]} == {span["span_id"] for span in trace} for each in found)

    def is_shown(trace: list[Span]) -> bool:
        """Connected, and drawn."""
        if not is_there(trace):
            return False
        (found,) = get(shown, f"/api/traces/{trace[0]['trace_id']}")["data"]
        ids = {span["spanID"] for span in found["spans"]}
        parents = [ref["spanID"] for span in found["spans"] for ref in span["references"]]
        assert len(parents) == len(ids) - 1 and set(parents) <= ids
        warned = [text for span in found["spans"] for text in span.get("warnings") or ()]
        # A server's span may end a moment after its caller's, which had its answer or left: no other complaint.
        assert all(text.startswith("clock skew adjustment disabled") for text in warned), warned
        services = {each["serviceName"] for each in found["processes"].values()}
        assert services == {"shoal", "a.production", "b.production", "c.production"}
        now_ms = int(time.time() * 1000)
        edges = get(shown, f"/api/dependencies?endTs={now_ms + 60_000}&lookback=3600000")["data"] or []
        drawn = {(each["parent"], each["child"]) for each in edges}
        return {("a.production", "b.production"), ("b.production", "c.production")} <= drawn

    told(tmp_path, start, is_shown)
