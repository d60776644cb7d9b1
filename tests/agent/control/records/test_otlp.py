"""Records as OTLP logs: what is written by hand is read by other people's code, and a real collector takes it."""

from __future__ import annotations

import gzip
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from agent.control.records import collector
from agent.control.records.collector import Collector, retry_after_s
from agent.control.records.otlp import Envelope, Partial, read_response, varint
from agent.control.records.reading import Line
from agent.control.records.records import Records
from agent.control.records.waiting import KINDS
from agent.settings.file import parse
from tests.support import web_pki
from tests.support.collecting import RealCollector, real_collector

RECORD = b'{"time":1764201600.25,"n":%d}\n'


def of(to: str, more: str = "") -> Records:
    return Records(
        parse(f'host = "web-1"\n[[records.sinks]]\nto = "{to}"\nkinds = ["access", "audit"]\n{more}', "agent.toml")
    )


def many(first: int, count: int) -> bytes:
    return b"".join(RECORD % number for number in range(first, first + count))


async def until(question: Callable[[], Any]) -> None:
    with trio.fail_after(60):
        while not question():
            await trio.sleep(0.005)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LINGER_S", 0.01)


# What is written.


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.text(max_size=300).map(str.encode), st.floats(0, 4e9)), max_size=20),
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=200), max_size=4),
)
def test_what_is_written_is_read_by_others(lines: list[tuple[Any, bytes, float]], resource: dict[str, str]) -> None:
    """Every record, in order, with its time and its kind."""
    written = Envelope(resource, "1.2").request([Line(*line) for line in lines], 1e9)
    read = ExportLogsServiceRequest.FromString(written)
    assert read.SerializeToString() is not None and len(read.resource_logs) == 1
    found = read.resource_logs[0]
    told = {each.key: each.value.string_value for each in found.resource.attributes}
    assert told == {key: value for key, value in resource.items() if value}
    (scope,) = found.scope_logs
    assert (scope.scope.name, scope.scope.version) == ("shoal", "1.2")
    assert [
        (each.attributes[0].value.string_value, each.body.string_value.encode(), each.time_unix_nano)
        for each in scope.log_records
    ] == [(kind, text, int(at * 1e9)) for kind, text, at in lines]
    for each in scope.log_records:
        assert each.attributes[0].key == "shoal.kind" and each.observed_time_unix_nano == 10**18
        assert (each.severity_number, each.severity_text) in ((9, "INFO"), (10, "INFO2"))


@given(st.integers(0, 2**63 - 1), st.text(max_size=100))
def test_what_others_write_is_read(rejected: int, reason: str) -> None:
    """How much a collector rejected, and why."""
    partial = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=reason)
    written = ExportLogsServiceResponse(partial_success=partial).SerializeToString()
    assert read_response(written) == Partial(rejected, reason)


@given(st.binary(max_size=200))
def test_a_senseless_answer_says_nothing(body: bytes) -> None:
    """And raises nothing."""
    found = read_response(body)
    assert found.rejected >= 0 and isinstance(found.reason, str)
    assert read_response(ExportLogsServiceResponse().SerializeToString()) == Partial()


def test_numbers_of_any_size() -> None:
    """As protobuf's documentation has them."""
    assert (varint(1), varint(150), varint(2**64 - 1)) == (b"\x01", b"\x96\x01", b"\xff" * 9 + b"\x01")


@pytest.mark.parametrize(
    ("text", "wait_s"), [(b"7", 7.0), (b" 0 ", 0.0), (b"soon", None), (b"-3", None), (b"9" * 30, 999_999_999.0)]
)
def test_how_long_to_wait(text: bytes, wait_s: float | None) -> None:
    """Seconds, or a date."""
    assert retry_after_s(text, 1e9) == wait_s
    assert retry_after_s(formatdate(1e9 + 9, usegmt=True).encode(), 1e9) == 9.0
    assert retry_after_s(formatdate(1e9 - 9, usegmt=True).encode(), 1e9) == 0.0


# How it is sent.


Answer = tuple[int, dict[str, str], bytes]


class Answers:
    """A collector that answers what the test wants, and then 200."""

    def __init__(
        self, *answers: tuple[int, dict[str, str], bytes] | None, context: ssl.SSLContext | None = None
    ) -> None:
        """None: it hangs."""
        self.answers = list(answers)
        self.context = context
        self.taken: list[int] = []
        """Numbers of records that were answered with 200."""
        self.requests: list[tuple[dict[str, str], ExportLogsServiceRequest]] = []
        self.times: list[float] = []

    async def one(self, tcp: trio.SocketStream) -> None:
        stream: Any = trio.SSLStream(tcp, self.context, server_side=True) if self.context else tcp
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _serve(self, stream: Any) -> None:
        server = h11.Connection(h11.SERVER)
        while True:
            head, body = {}, b""
            while not isinstance(event := server.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    data = await stream.receive_some(65536)
                    server.receive_data(data)
                elif isinstance(event, h11.Request):
                    assert (event.method, event.target) == (b"POST", b"/v1/logs")
                    head = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    return
            self.times.append(trio.current_time())
            read = ExportLogsServiceRequest.FromString(gzip.decompress(body))
            self.requests.append((head, read))
            answer = self.answers.pop(0) if self.answers else (200, {}, b"")
            if answer is None:
                await trio.sleep_forever()
                return
            status, headers, content = answer
            if status == 200:
                self.taken += [json.loads(text)["n"] for text in bodies(read)]
            fields = {"content-length": str(len(content)), "content-type": "application/x-protobuf", **headers}
            await stream.send_all(server.send(h11.Response(status_code=status, headers=list(fields.items()))) or b"")
            await stream.send_all((server.send(h11.Data(content)) or b"") + (server.send(h11.EndOfMessage()) or b""))
            server.start_next_cycle()


def bodies(request: ExportLogsServiceRequest) -> list[str]:
    return [each.body.string_value for scope in request.resource_logs[0].scope_logs for each in scope.log_records]


@asynccontextmanager
async def collecting(answers: Answers, more: str = "", scheme: str = "http") -> AsyncIterator[tuple[Records, Any]]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answers.one, [listener])
        records = of(f"otlp+{scheme}://localhost:{listener.socket.getsockname()[1]}", more)
        async with trio.open_nursery() as sinks:
            records.start(sinks)
            yield records, records.sinks[0]
            sinks.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_batches_with_gzip_and_headers(tmp_path: Path) -> None:
    """Every record once, in requests that are bounded; a header's value is what its file holds now."""
    (tmp_path / "token").write_text("Bearer one\n")
    answers = Answers()
    async with collecting(answers, f'headers = {{ authorization = "{tmp_path}/token" }}') as (records, sink):
        assert isinstance(sink, Collector)
        records.offer("access", many(0, 4500), 4500)
        await until(lambda: sink.waiting.delivered["access"] == 4500)
        (tmp_path / "token").write_text("Bearer two\n")
        records.offer("audit", RECORD % 4500)
        await until(lambda: sink.waiting.delivered["audit"] == 1)
    assert answers.taken == list(range(4501))
    assert [len(bodies(read)) for _, read in answers.requests] == [2000, 2000, 500, 1]
    head, read = answers.requests[0]
    assert head["content-encoding"] == "gzip" and head["content-type"] == "application/x-protobuf"
    assert (head["authorization"], answers.requests[-1][0]["authorization"]) == ("Bearer one", "Bearer two")
    resource = {each.key: each.value.string_value for each in read.resource_logs[0].resource.attributes}
    assert resource == {"service.name": "shoal", "host.name": "web-1", "shoal.mesh": "default"}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_work_later_is_tried_again(status: int) -> None:
    """After as long as the collector says."""
    answers = Answers((status, {"retry-after": "1"}, b"busy"), (status, {}, b""))
    async with collecting(answers) as (records, sink):
        records.offer("audit", many(0, 3), 3)
        await until(lambda: sink.trouble)
        assert sink.trouble == f"it answers {status}: busy"
        await until(lambda: sink.waiting.delivered["audit"] == 3)
        assert sink.trouble == "" and sink.waiting.lost.total() == 0
    assert answers.taken == [0, 1, 2] and len(answers.requests) == 3
    assert answers.times[1] - answers.times[0] >= 0.99


@pytest.mark.parametrize("status", [400, 401, 404, 413, 415, 500, 302])
async def test_what_never_works_is_lost_and_the_next_is_sent(status: int) -> None:
    """It is counted, and the reason is told; nobody is sent elsewhere."""
    answers = Answers((status, {"location": "http://127.0.0.1:1/"}, b"not so"))
    async with collecting(answers) as (records, sink):
        records.offer("audit", many(0, 3), 3)
        await until(lambda: sink.waiting.lost["audit"] == 3)
        assert sink.trouble == f"it answers {status}: not so"
        records.offer("audit", RECORD % 3)
        await until(lambda: sink.waiting.delivered["audit"] == 1)
        assert sink.trouble == ""
    assert answers.taken == [3]


async def test_what_a_collector_rejects_of_a_request_is_counted() -> None:
    """And is not sent again; more than there were is as many as there were."""
    partials = [ExportLogsPartialSuccess(rejected_log_records=n, error_message="too old") for n in (2, 99)]
    answers = Answers(
        *((200, {}, ExportLogsServiceResponse(partial_success=each).SerializeToString()) for each in partials)
    )
    async with collecting(answers) as (records, sink):
        records.offer("access", many(0, 5), 5)
        await until(lambda: sink.waiting.delivered["access"] == 3)
        assert sink.waiting.lost["access"] == 2 and sink.trouble == "it has rejected 2 of 5: too old"
        records.offer("access", many(5, 2), 2)
        await until(lambda: sink.waiting.lost["access"] == 4)
    assert len(answers.requests) == 2


async def test_a_collector_that_hangs_and_then_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is given up, and the request made again."""
    monkeypatch.setattr(collector, "ANSWER_S", 0.2)
    answers = Answers(None)
    async with collecting(answers) as (records, sink):
        records.offer("audit", RECORD % 0)
        await until(lambda: sink.trouble)
        assert sink.trouble == "no answer within 0.2 s"
        await until(lambda: sink.waiting.delivered["audit"] == 1)
    assert answers.taken == [0] and len(answers.requests) == 2


async def test_over_tls_nobody_else_is_told_anything(tmp_path: Path) -> None:
    """Its own name, of the authority that the settings name."""
    for name, taken in (("localhost", True), ("elsewhere", False)):
        (tmp_path / "server.pem").write_bytes(web_pki.certificate(name))
        (tmp_path / "ca.pem").write_text(web_pki.root())
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "server.pem")
        answers = Answers(context=context)
        async with collecting(answers, f'ca = "{tmp_path}/ca.pem"', "https") as (records, sink):
            records.offer("audit", RECORD % 0)
            await until(lambda: sink.waiting.delivered["audit"] or sink.trouble)
            assert taken or sink.trouble.startswith("its certificate is refused: Hostname mismatch")
        assert answers.taken == ([0] if taken else [])


async def test_a_header_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is sent without it."""
    answers = Answers()
    async with collecting(answers, f'headers = {{ authorization = "{tmp_path}/token" }}') as (records, sink):
        records.offer("audit", RECORD % 0)
        await until(lambda: sink.trouble)
        assert sink.trouble == "No such file or directory" and answers.requests == []
        (tmp_path / "token").write_text("Bearer one")
        await until(lambda: answers.taken == [0])


# A real collector.


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealCollector]:
    """Rotel, which prints what it takes."""
    with real_collector(tmp_path, "logs") as running:
        yield running


async def test_a_real_collector_takes_what_we_send(real: RealCollector) -> None:
    """All of it, and shows it as what it was; and garbage it does not take, so that it is no collector of anything."""
    port, output = real.port, real.output
    garbage = httpx.post(
        f"http://127.0.0.1:{port}/v1/logs", content=b"\xff" * 10, headers={"content-type": "application/x-protobuf"}
    )
    assert garbage.status_code == 400
    records = of(f"otlp+http://127.0.0.1:{port}")
    async with trio.open_nursery() as nursery:
        records.start(nursery)
        (sink,) = records.sinks
        records.offer("access", many(0, 2500), 2500)
        records.offer("audit", b'{"time":1764201600.25,"who":"haxor69"}')
        await until(lambda: sink.waiting.delivered == Counter({"access": 2500, "audit": 1}))
        await until(lambda: "haxor69" in output.read_text(errors="replace"))
        assert sink.trouble == "" and sink.waiting.lost.total() == 0
        nursery.cancel_scope.cancel()
    text = output.read_text(errors="replace")
    assert "web-1" in text and '"n":2499' in text.replace("\\", "") and "shoal.kind" in text
