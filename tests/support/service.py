"""A small real HTTP service, for the demo and the tests. Standard library only; HTTP/1.1 with keep-alive.

    python tests/support/service.py --port 8080 --version v1 --instance a

Every answer is JSON that says who answered and what it was asked. These paths behave as named, all others just answer:

    /health                 200, or 503 while unhealthy
    /set/healthy, /set/unhealthy    changes what /health says from now on
    /set/failing, /set/slow, /set/well    answers 500, or after two seconds, whatever /health says; and as before
    /slow?s=0.5             answers after that many seconds
    /turn?s=0.05            the same, one call at a time: the others wait for their turn
    /status/503             answers with that status
    /fail?rate=0.3          answers 500 with that probability
    /drop                   closes the connection without an answer
    /call?url=http://…      calls another service, through HTTP_PROXY where that is set, and answers with what it said
    /via/b.production/c.production   calls the first with the rest as its path, and answers 503 unless that answered 200
                            (hands on x-request-id and traceparent, and nothing else)
    /echo                   answers with the body that it was sent

SIGTERM: finishes what it is answering, then ends with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

CALL_TIMEOUT_S = 10
GRACE_S = 5
HANDED_ON = ("x-request-id", "traceparent")


class Service(ThreadingHTTPServer):
    """The listening service, and what its handlers share."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, version: str, instance: str) -> None:
        if ":" in address:
            self.address_family = socket.AF_INET6
        super().__init__((address, port), Handler)
        self.version = version
        self.instance = instance
        self.healthy = True
        self.mood = "well"
        self.answering = 0
        self.idle = threading.Condition()
        self.turn = threading.Lock()

    @contextlib.contextmanager
    def counted(self):  # type: ignore[no-untyped-def]
        """While a request is being answered."""
        with self.idle:
            self.answering += 1
        try:
            yield
        finally:
            with self.idle:
                self.answering -= 1
                self.idle.notify_all()

    def finish(self, grace_s: float) -> None:
        """Waits until nothing is being answered, for `grace_s` seconds at most."""
        with self.idle:
            self.idle.wait_for(lambda: not self.answering, timeout=grace_s)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Service
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one send

    def log_message(self, format: str, *args: object) -> None:
        """Access logs are the mesh's business."""

    def serve(self) -> None:
        with self.server.counted():
            body = self.read_body()
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.act(parts.path, query, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve

    def act(self, path: str, query: dict[str, str], body: bytes) -> None:
        if path == "/health":
            self.answer(200 if self.server.healthy else 503)
        elif path in ("/set/healthy", "/set/unhealthy"):
            self.server.healthy = path == "/set/healthy"
            self.answer(200)
        elif path in ("/set/failing", "/set/slow", "/set/well"):
            self.server.mood = path.removeprefix("/set/")
            self.send(200, "text/plain", b"so be it\n")
        elif path == "/slow":
            time.sleep(float(query.get("s", "1")))
            self.answer(200)
        elif path == "/turn":
            with self.server.turn:
                time.sleep(float(query.get("s", "0.05")))
            self.answer(200)
        elif path.startswith("/status/"):
            self.answer(int(path.removeprefix("/status/")))
        elif path == "/fail":
            self.answer(500 if random.random() < float(query.get("rate", "1")) else 200)
        elif path == "/drop":
            self.close_connection = True
        elif path == "/call":
            self.answer(200, called=call(query["url"]))
        elif path.startswith("/via/"):
            name, _, rest = path.removeprefix("/via/").partition("/")
            handed_on = {field: self.headers[field] for field in HANDED_ON if field in self.headers}
            called = call(f"http://{name}/via/{rest}" if rest else f"http://{name}/", handed_on)
            self.answer(200 if called["status"] == 200 else 503, called=called["status"])
        elif path == "/echo":
            self.send(200, self.headers.get("content-type", "application/octet-stream"), body)
        else:
            if self.server.mood == "slow":
                time.sleep(2)
            self.answer(500 if self.server.mood == "failing" else 200)

    def read_body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return self.read_chunks()
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(chunks)

    def answer(self, status: int, **more: object) -> None:
        told = {
            "version": self.server.version,
            "instance": self.server.instance,
            "pid": os.getpid(),
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            **more,
        }
        self.send(status, "application/json", json.dumps(told, indent=1).encode() + b"\n")

    def send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        bodiless = status in (204, 304) or status < 200
        if not bodiless:
            self.send_header("content-length", str(len(body)))
        self.send_header("x-instance", self.server.instance)
        self.send_header("x-version", self.server.version)
        self.end_headers()
        if not bodiless and self.command != "HEAD":
            self.wfile.write(body)


def call(url: str, headers: Mapping[str, str] = MappingProxyType({})) -> dict[str, object]:
    """What another service answered. urllib honours HTTP_PROXY, credentials and all: that is the point of it."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=dict(headers)), timeout=CALL_TIMEOUT_S
        ) as response:
            return {"status": response.status, "body": json.loads(response.read())}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode("utf-8", "replace")}
    except (OSError, ValueError) as error:
        return {"status": None, "error": str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A small HTTP service that says who answered.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("PORT", "0")), help="default: $PORT, or a free one"
    )
    parser.add_argument("--version", default="v1")
    parser.add_argument("--instance", default=str(os.getpid()))
    options = parser.parse_args()

    service = Service(options.address, options.port, options.version, options.instance)
    # shutdown() waits for serve_forever(), which the handler has interrupted: another thread must say it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=service.shutdown).start())
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
    print(json.dumps({"listening": service.server_address[1], "pid": os.getpid()}), flush=True)
    service.serve_forever(poll_interval=0.05)
    service.finish(GRACE_S)
    sys.exit(0)


if __name__ == "__main__":
    main()
