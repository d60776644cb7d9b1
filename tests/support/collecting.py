"""Collectors: one that answers what a test wants, and a real one that prints what it takes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h11
import httpx
import rotel
import trio

from agent.control.records.records import Records
from agent.settings.file import parse
from registry.etcd.server import free_port

Answer = tuple[int, dict[str, str], bytes]


async def until(question: Callable[[], Any]) -> None:
    with trio.fail_after(60):
        while not question():
            await trio.sleep(0.005)


class RealCollector(NamedTuple):
    """A collector of somebody else's."""

    port: int
    output: Path
    process: subprocess.Popen[bytes]


class Collectors:
    """One that gives these answers, and then 200."""

    def __init__(self, *answers: Answer | bytes | None) -> None:
        """None: it hangs; bytes: it closes the connection."""
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        """Path, headers, and body as it came."""
        self.times: list[float] = []

    @asynccontextmanager
    async def serving(self, path: str, kinds: str, more: str = "") -> AsyncIterator[tuple[Records, Any]]:
        """Records whose one sink it is."""
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._one, [listener])
            to = f"otlp+http://127.0.0.1:{listener.socket.getsockname()[1]}{path}"
            settings = f'host = "web-1"\n[[records.sinks]]\nto = "{to}"\nkinds = {kinds}\n{more}'
            records = Records(parse(settings, "agent.toml"))
            async with trio.open_nursery() as sinks:
                records.start(sinks)
                yield records, records.sinks[0]
                sinks.cancel_scope.cancel()
            nursery.cancel_scope.cancel()

    async def _one(self, stream: trio.SocketStream) -> None:
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _serve(self, stream: trio.SocketStream) -> None:
        server = h11.Connection(h11.SERVER)
        while True:
            path, head, body = "", {}, b""
            while not isinstance(event := server.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    server.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Request):
                    path, head = event.target.decode(), {k.decode(): v.decode() for k, v in event.headers}
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    return
            self.times.append(trio.current_time())
            self.requests.append((path, head, body))
            answer = self.answers.pop(0) if self.answers else (200, {}, b"")
            if answer is None:
                await trio.sleep_forever()
            elif isinstance(answer, bytes):
                await stream.aclose()
                return
            else:
                status, headers, content = answer
                fields = [("content-length", str(len(content))), *headers.items()]
                await stream.send_all(server.send(h11.Response(status_code=status, headers=fields)) or b"")
                await stream.send_all(
                    (server.send(h11.Data(content)) or b"") + (server.send(h11.EndOfMessage()) or b"")
                )
                server.start_next_cycle()


@contextmanager
def real_collector(folder: Path, shows: str) -> Iterator[RealCollector]:
    """Rotel, which prints the `logs` or `traces` that it takes."""
    port, output = free_port(), folder / "rotel.log"
    program = Path(rotel.__file__).parent / "rotel-agent"
    argv = [str(program), "start", "--otlp-http-endpoint", f"127.0.0.1:{port}", "--exporter", "blackhole"]
    argv += ["--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
    argv += ["--debug-log", shows, "--debug-log-verbosity", "detailed"]
    with open(output, "wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
                    break
                except httpx.HTTPError:
                    time.sleep(0.05)
            yield RealCollector(port, output, process)
        finally:
            process.kill()
            process.wait()
