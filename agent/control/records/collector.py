"""Records to an OTLP collector: protobuf over HTTP, by OTLP's own rules.

Spans (`traces`) are sent as traces, all other records as logs: each to a path of its own, one request at a time.

Laws (OTLP 1.x, "OTLP/HTTP response")
- 200 is taken; what the collector says that it rejected of it is lost, and not tried again.
- 429, 502, 503 and 504 are tried again, after what `Retry-After` says, else with back-off; so is a connection that
  cannot be had, or breaks. Any other answer loses that request, since it would get no other one.
- One request at a time, in order, of MOST_RECORDS and MOST_BYTES at most, with gzip.
"""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import AsyncIterable, Collection, Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, cast

import httpcore
import trio

import agent
from agent.control.records.otlp import Envelope, read_response
from agent.control.records.otlp_spans import SpanEnvelope
from agent.control.records.reading import Line, lines_of
from agent.control.records.shown import Shown, reason_of
from agent.control.records.sink import Sink
from agent.control.records.waiting import Batch, Kind
from agent.settings.sinks import Place, logs_path, traces_path
from registry.backoff import Backoff

ANSWER_S: Final = 10.0
"""For a request, from the connection to the end of the answer."""
LINGER_S: Final = 0.5
"""How long it is waited for more, when something has come after a while."""
MOST_RECORDS: Final = 2000
MOST_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_RETRY_AFTER_S: Final = 300.0
AGAIN: Final = frozenset({429, 502, 503, 504})
COMPRESSION: Final = 1
"""Of gzip: the records look alike, and more would cost control's host more than it saves."""


class Collector(Sink):
    """One collector."""

    def __init__(
        self,
        place: Place,
        name: str,
        kinds: Collection[Kind],
        most_bytes: int,
        *,
        resource: Mapping[str, str],
        headers: Mapping[str, str],
        shown: Shown | None = None,
    ) -> None:
        """`headers`: by name, the file that holds each one's value. `shown`: over TLS."""
        super().__init__(name, kinds, most_bytes)
        host = f"[{place.host}]" if ":" in place.host else place.host
        origin = f"{place.way}://{host}:{place.port}"
        self._logs_url, self._traces_url = origin + logs_path(place.path), origin + traces_path(place.path)
        self._files = dict(headers)
        self._shown = shown
        self._envelope = Envelope(resource, agent.VERSION)
        self._spans = SpanEnvelope(resource, agent.VERSION)
        self._backoff = Backoff(0.5, 30.0)
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def gather(self) -> None:
        """A request for a record each would be dear."""
        if not self.ending:
            await trio.sleep(LINGER_S)

    async def deliver(self, batches: list[Batch]) -> None:
        """In requests that are no larger than may be."""
        now = time.time()
        lines = await trio.to_thread.run_sync(lambda: [line for batch in batches for line in lines_of(batch, now)])
        for part in _parts([line for line in lines if line.kind != "traces"]):
            body = await trio.to_thread.run_sync(self._written, part, now)
            await self._export(self._logs_url, part, body)
        for part in _parts([line for line in lines if line.kind == "traces"]):
            body, odd = await trio.to_thread.run_sync(self._written_spans, part)
            self.account("traces", 0, odd)
            await self._export(self._traces_url, part[odd:], body)

    def _written(self, lines: list[Line], now: float) -> bytes:
        return gzip.compress(self._envelope.request(lines, now), COMPRESSION, mtime=0)

    def _written_spans(self, lines: list[Line]) -> tuple[bytes, int]:
        """And how many lines were no spans."""
        body, odd = self._spans.request(lines)
        return gzip.compress(body, COMPRESSION, mtime=0), odd

    async def _export(self, url: str, lines: list[Line], body: bytes) -> None:
        """Until it is taken, or refused for good."""
        while lines:
            wait_s = self._backoff.next_s()
            try:
                status, after, answer = await self._post(url, body)
            except trio.TooSlowError:
                await self._give_up(f"no answer within {ANSWER_S:g} s")
            except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
                await self._give_up(reason_of(error))
            except httpcore.ConnectionNotAvailable as error:
                await self._give_up(str(error))
            else:
                if status == 200:
                    self._taken(lines, answer)
                    return
                reason = f"it answers {status}: {answer[:200].decode('utf-8', 'replace')}"
                if status not in AGAIN:
                    self._count(lines, taken=False)
                    self.lost_for(reason)
                    return
                self.failed(reason)
                wait_s = wait_s if after is None else min(after, MAX_RETRY_AFTER_S)
            await trio.sleep(wait_s)

    def _taken(self, lines: list[Line], answer: bytes) -> None:
        self._backoff.reset()
        partial = read_response(answer)
        rejected = min(partial.rejected, len(lines))
        self._count(lines[rejected:], taken=True)
        self._count(lines[:rejected], taken=False)  # it does not say which
        if rejected:
            self.lost_for(f"it has rejected {rejected} of {len(lines)}: {partial.reason}")
        else:
            self.well()

    def _count(self, lines: list[Line], *, taken: bool) -> None:
        for kind, number in Counter(line.kind for line in lines).items():
            self.account(kind, number * taken, number * (not taken))

    async def _post(self, url: str, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, how long it asks to wait (s), and the beginning of the body."""
        with trio.fail_after(ANSWER_S):
            if self._pool is None:
                context = await trio.to_thread.run_sync(self._shown.context) if self._shown is not None else None
                self._pool = httpcore.AsyncConnectionPool(ssl_context=context, max_connections=1)
            headers: dict[bytes | str, bytes | str] = {
                "content-type": "application/x-protobuf",
                "content-encoding": "gzip",
                "user-agent": f"shoal/{agent.VERSION}",
                **await trio.to_thread.run_sync(_read, self._files),
            }
            async with self._pool.stream("POST", url, headers=headers, content=body) as answer:
                told = b""
                async for piece in cast("AsyncIterable[bytes]", answer.stream):
                    told += piece[: MAX_ANSWER_BYTES - len(told)]
                    if len(told) >= MAX_ANSWER_BYTES:
                        break
                after = next((value for name, value in answer.headers if name.lower() == b"retry-after"), None)
                return answer.status, None if after is None else retry_after_s(after, time.time()), told

    async def _give_up(self, reason: str) -> None:
        """The connection; the next one is made with what the files hold by then."""
        self.failed(reason)
        await self.end()

    async def end(self) -> None:
        """Close the connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()


def retry_after_s(text: bytes, now: float) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date. None: neither."""
    said = text.decode("latin-1").strip()
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)


def _parts(lines: list[Line]) -> Iterator[list[Line]]:
    part: list[Line] = []
    size = 0
    for line in lines:
        if part and (len(part) >= MOST_RECORDS or size + len(line.text) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line.text)
    if part:
        yield part


def _read(files: Mapping[str, str]) -> dict[bytes | str, bytes | str]:
    """What each file holds. Raises OSError for what is none, or no header."""
    found: dict[bytes | str, bytes | str] = {}
    for name, path in files.items():
        value = Path(path).read_text("utf-8", "replace").strip()
        if not value.isascii() or not value.isprintable():
            raise OSError(f"{path} holds no value of a header")
        found[name] = value
    return found
