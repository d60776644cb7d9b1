"""Spans as OTLP traces: what is written by hand is read by other people's code, and collectors of every mood get it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agent.carried import Link, Span
from agent.control.records import collector
from agent.control.records.otlp_spans import SpanEnvelope
from agent.control.records.reading import Line
from agent.control.records.records import Records
from agent.settings.file import SettingsError, parse
from tests.support.collecting import Collectors, real_collector, until

ids = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")
traces = st.integers(1, 2**128 - 1).map(lambda number: f"{number:032x}")
values = (
    st.text(max_size=30) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.lists(st.text(max_size=9), max_size=3)
)
SPANS = st.builds(
    Span,
    time=st.floats(0, 4e9),
    duration_s=st.floats(0, 1e6),
    service=st.sampled_from(["pets.production", "shop.production"]),
    name=st.text(max_size=20),
    kind=st.sampled_from(["client", "server", "a newer one"]),
    trace_id=traces,
    span_id=ids,
    parent_id=ids | st.just(""),
    state=st.text("abc=,", max_size=20),
    flags=st.integers(0, 3),
    remote=st.booleans(),
    error=st.sampled_from(["", "503", "reset"]),
    attributes=st.dictionaries(st.text(max_size=20), values, max_size=5),
    links=st.lists(st.builds(Link, traces, ids), max_size=2),
)
RESOURCE = {"service.name": "shoal", "host.name": "web-1", "shoal.mesh": "default", "shoal.zone": ""}


def line(span: Span) -> Line:
    return Line("traces", msgspec.json.encode(span), span.time)


def value_of(value: Any) -> Any:
    found = getattr(value, value.WhichOneof("value"))
    return [each.string_value for each in found.values] if value.WhichOneof("value") == "array_value" else found


def attributes(found: Any) -> dict[str, Any]:
    return {each.key: value_of(each.value) for each in found}


@given(st.lists(SPANS, max_size=8))
def test_what_is_written_is_read_by_others(spans: list[Span]) -> None:
    """Every span with all that it says, by its service, in order."""
    written, odd = SpanEnvelope(RESOURCE, "1.2").request(map(line, spans))
    read = ExportTraceServiceRequest.FromString(written)
    assert odd == 0 and {each.service for each in spans} == {
        attributes(each.resource.attributes)["service.name"] for each in read.resource_spans
    }
    for resource in read.resource_spans:
        said = attributes(resource.resource.attributes)
        service = said.pop("service.name")
        assert said == {"host.name": "web-1", "shoal.mesh": "default"}
        (scope,) = resource.scope_spans
        assert (scope.scope.name, scope.scope.version) == ("shoal", "1.2")
        for found, span in zip(scope.spans, [each for each in spans if each.service == service], strict=True):
            assert (found.trace_id.hex(), found.span_id.hex()) == (span.trace_id, span.span_id)
            assert (found.parent_span_id.hex(), found.trace_state) == (span.parent_id, span.state)
            assert (found.name, found.kind) == (span.name, {"server": 2, "client": 3}.get(span.kind, 1))
            assert found.start_time_unix_nano == int(span.time * 1e9)
            assert found.end_time_unix_nano - found.start_time_unix_nano == int(span.duration_s * 1e9)
            assert attributes(found.attributes) == span.attributes
            assert [(each.trace_id.hex(), each.span_id.hex()) for each in found.links] == [
                (each.trace_id, each.span_id) for each in span.links
            ]
            assert found.status.code == (2 if span.error else 0)
            assert found.flags == span.flags | 0x100 | (0x200 if span.remote else 0)


@given(st.lists(st.binary(max_size=60) | SPANS.map(msgspec.json.encode), max_size=6))
def test_lines_that_are_no_spans_are_left_out_and_counted(texts: list[bytes]) -> None:
    """Whatever they are."""
    written, odd = SpanEnvelope(RESOURCE, "1").request(Line("traces", text, 1.0) for text in texts)
    read = ExportTraceServiceRequest.FromString(written)
    count = sum(len(scope.spans) for resource in read.resource_spans for scope in resource.scope_spans)
    assert count + odd == len(texts)


@pytest.mark.parametrize(
    "text",
    [b'{"trace_id": "xx"}', b'{"time": -1}', b'{"time": 1e300}', b'{"duration_s": 1e300}', b'{"links": [["x", ""]]}'],
)
def test_what_no_span_says(text: bytes) -> None:
    """Ids that are none, and times that no clock has."""
    usual: dict[str, Any] = json.loads(msgspec.json.encode(Span(1.0, 1.0, "a", "GET", "client", "0" * 32, "0" * 16)))
    assert SpanEnvelope(RESOURCE, "1").request(
        [Line("traces", msgspec.json.encode({**usual, **json.loads(text)}), 1.0)]
    )[1]


# Where they go.


@pytest.mark.parametrize(
    ("path", "logs", "traces"),
    [
        ("", "/v1/logs", "/v1/traces"),
        ("/", "/v1/logs", "/v1/traces"),
        ("/v1/traces", "/v1/logs", "/v1/traces"),
        ("/otlp/v1/logs", "/otlp/v1/logs", "/otlp/v1/traces"),
    ],
)
async def test_each_to_a_path_of_its_own(path: str, logs: str, traces: str) -> None:
    """By the path that the URL says."""
    collectors = Collectors()
    async with collectors.serving(path, '["access", "traces"]') as (records, sink):
        records.offer("traces", spans(0, 2), 2)
        records.offer("access", b'{"time":1764201600.25}')
        await until(lambda: sink.waiting.delivered == Counter({"traces": 2, "access": 1}))
    found = {path: gzip.decompress(body) for path, _, body in collectors.requests}
    assert found.keys() == {logs, traces} and numbers(found[traces]) == [0, 1]
    assert len(ExportLogsServiceRequest.FromString(found[logs]).resource_logs) == 1


async def test_another_path_is_taken_as_it_is() -> None:
    """For spans alone; for both it would be one path for two things."""
    collectors = Collectors()
    async with collectors.serving("/insert/opentelemetry", '["traces"]') as (records, sink):
        records.offer("traces", spans(0, 1))
        await until(lambda: sink.waiting.delivered["traces"] == 1)
    assert [path for path, _, _ in collectors.requests] == ["/insert/opentelemetry"]
    with pytest.raises(
        SettingsError, match=r"traces go to another path than the rest, and the URL says one for all, /x; end it"
    ):
        parse('[[records.sinks]]\nto = "otlp+http://h/x"\nkinds = ["access", "traces"]', "agent.toml")


def spans(first: int, count: int) -> bytes:
    """So many, with their number."""
    found = [
        Span(
            1764201600.25,
            0.01,
            "pets.production",
            "GET",
            "server",
            f"{n + 1:032x}",
            f"{n + 1:016x}",
            attributes={"n": n},
        )
        for n in range(first, first + count)
    ]
    return msgspec.json.Encoder().encode_lines(found)


def numbers(body: bytes) -> list[int]:
    read = ExportTraceServiceRequest.FromString(body)
    found = [span for resource in read.resource_spans for scope in resource.scope_spans for span in scope.spans]
    return [each.attributes[0].value.int_value for each in found]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LINGER_S", 0.01)


async def test_a_collector_in_a_bad_mood(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs, says 429 with Retry-After, breaks off, and then takes it: each span once; 400 loses that batch,
    counted, and not the next one; what it rejects of one is counted."""
    monkeypatch.setattr(collector, "ANSWER_S", 0.3)
    partial = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
    ).SerializeToString()
    collectors = Collectors(
        None, (429, {"retry-after": "1"}, b""), b"break", (200, {}, b""), (400, {}, b"not so"), (200, {}, partial)
    )
    async with collectors.serving("", '["traces"]') as (records, sink):
        records.offer("traces", spans(0, 3), 3)
        await until(lambda: sink.waiting.delivered["traces"] == 3)
        assert [numbers(gzip.decompress(body)) for _, _, body in collectors.requests] == [[0, 1, 2]] * 4
        assert collectors.times[2] - collectors.times[1] >= 0.99
        records.offer("traces", spans(3, 2), 2)
        await until(lambda: sink.waiting.lost["traces"] == 2)
        assert sink.trouble == "it answers 400: not so"
        records.offer("traces", spans(5, 2), 2)
        await until(lambda: sink.waiting.delivered["traces"] == 4)
        assert sink.waiting.lost["traces"] == 3 and sink.trouble == "it has rejected 1 of 2: too old"


async def test_memory_is_bounded_while_nobody_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room is lost, and counted; what waits is whole, and goes when somebody takes it."""
    monkeypatch.setattr(collector, "ANSWER_S", 0.2)
    collectors = Collectors(None, None)
    async with collectors.serving("", '["traces"]', "max_waiting_bytes = 65536") as (records, sink):
        for number in range(0, 5000, 100):
            records.offer("traces", spans(number, 100), 100)
            assert sink.waiting.bytes < 65536 + 40_000
            await trio.sleep(0)
        assert sink.waiting.lost["traces"] > 2000
        await until(lambda: sink.waiting.delivered.total() + sink.waiting.lost.total() == 5000)
    assert (
        sum(len(numbers(gzip.decompress(body))) for _, _, body in collectors.requests[2:])
        == sink.waiting.delivered["traces"]
    )


async def test_spans_are_lines_elsewhere(tmp_path: Path) -> None:
    """In a file, for whoever reads JSON."""
    path = tmp_path / "spans.jsonl"
    records = Records(parse(f'host = "h"\n[[records.sinks]]\nto = "{path}"\nkinds = ["traces"]', "agent.toml"))
    assert records.wants("traces") and not records.wants("access")
    async with trio.open_nursery() as nursery:
        records.start(nursery)
        records.offer("traces", spans(0, 2), 2)
        await until(lambda: records.sinks[0].waiting.delivered["traces"] == 2)
        nursery.cancel_scope.cancel()
    assert [json.loads(text)["attributes"]["n"] for text in path.read_text().splitlines()] == [0, 1]


async def test_a_real_collector_takes_what_we_send(tmp_path: Path) -> None:
    """All of it, by service; and garbage it does not take, so that it is no collector of anything."""
    with real_collector(tmp_path, "traces") as (port, output, _):
        url = f"http://127.0.0.1:{port}/v1/traces"
        garbage = httpx.post(url, content=b"\xff" * 10, headers={"content-type": "application/x-protobuf"})
        assert garbage.status_code == 400
        settings = f'host = "web-1"\n[[records.sinks]]\nto = "otlp+http://127.0.0.1:{port}"\nkinds = ["traces"]'
        records = Records(parse(settings, "agent.toml"))
        async with trio.open_nursery() as nursery:
            records.start(nursery)
            (sink,) = records.sinks
            records.offer("traces", spans(0, 2500), 2500)
            await until(lambda: sink.waiting.delivered["traces"] == 2500)
            await until(lambda: f"{2500:016x}" in output.read_text(errors="replace"))
            assert sink.trouble == "" and sink.waiting.lost.total() == 0
            nursery.cancel_scope.cancel()
        text = output.read_text(errors="replace")
        assert "pets.production" in text and "web-1" in text
