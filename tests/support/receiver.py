"""A receiver of webhooks: real HTTP, in a thread of the test, with answers that the test chooses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Received:
    """One request."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.at = time.monotonic()
        self.path = path
        self.headers = headers
        self.body = body

    @property
    def event(self) -> dict[str, Any]:
        """Its CloudEvent."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """Answers 204 unless told otherwise: `answer(path, number)` gives a status, headers, or hangs by itself."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received, int], tuple[int, dict[str, str]]] = lambda request, number: (204, {})
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                request = Received(self.path, {n.lower(): v for n, v in self.headers.items()}, body)
                receiver.received.append(request)
                number = sum(other.path == self.path for other in receiver.received)
                status, headers = receiver.answer(request, number)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    if headers.get("transfer-encoding") == "chunked":
                        self.end_headers()
                        while receiver.running:
                            self.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                            time.sleep(0.01)
                        return
                    self.send_header("content-length", "0")
                    self.end_headers()
                except OSError:
                    self.close_connection = True

            do_PATCH = do_PUT = do_POST

        self.running = True
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def url(self, path: str = "/") -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, name: str = "", path: str = "") -> list[Received]:
        """Those of an event type, or of a path."""
        found = [r for r in self.received if not path or r.path == path]
        return [r for r in found if not name or r.event["type"] == f"io.shoal.{name}"]

    def close(self) -> None:
        """End it."""
        self.running = False
        self._server.shutdown()
        self._server.server_close()
