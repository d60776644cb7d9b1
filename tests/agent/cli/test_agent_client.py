"""What the command line asks of an agent: of this version, and of the one before."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agent.cli.agent_client import API, Admin, Refused
from agent.cli.failure import Failure


@contextmanager
def answering(answers: dict[str, tuple[int, Any]]) -> Iterator[tuple[Admin, list[tuple[str, str, Any]]]]:
    """An agent that answers by path, else 404; and what it was asked."""
    asked: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("content-length", "0"))
            body = json.loads(self.rfile.read(size)) if size else None
            asked.append((self.command, self.path, body))
            status, told = answers.get(self.path.partition("?")[0], (404, {"status": 404, "reason": "no such thing"}))
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Admin(f"http://127.0.0.1:{server.server_address[1]}", "default"), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


REQUEST = {"url": "pets/", "method": "GET", "caller": "shop", "headers": [{"name": "x-tier", "value": "a b"}]}


def test_an_agent_of_this_version_is_asked_by_the_api() -> None:
    """Once, and nothing else."""
    with answering({"/api/v1/agent": (200, {"host": "a"}), "/api/v1/explain": (200, {"decisions": []})}) as (it, asked):
        assert it.state() == {"host": "a"} and it.explain(REQUEST) == {"decisions": []}
    assert asked == [("GET", "/api/v1/agent", None), ("POST", "/api/v1/explain", REQUEST)]


def test_an_agent_of_the_version_before_is_asked_as_before() -> None:
    """It has no API, and says so."""
    with answering({"/state": (200, {"host": "old"}), "/explain": (200, {"decisions": []})}) as (it, asked):
        assert it.state() == {"host": "old"} and it.explain(REQUEST) == {"decisions": []}
    assert [path for _, path, _ in asked] == [
        "/api/v1/agent",
        "/state?services=0",
        "/api/v1/explain",
        "/explain?url=pets%2F&method=GET&as=shop&header=x-tier%3A+a+b",
    ]


@pytest.mark.parametrize("status", [404, 405])
def test_instances_are_registered_with_an_agent_of_the_version_before(status: int) -> None:
    """It has no API, or shows instances there and takes none."""
    with answering({f"{API}/instances": (status, {}), "/instances": (200, {"id": "a"})}) as (it, asked):
        assert it.instance("POST", "/instances", {"port": 80}) == {"id": "a"}
    assert asked == [("POST", f"{API}/instances", {"port": 80}), ("POST", "/instances", {"port": 80})]


def test_what_is_refused_is_not_asked_for_again_by_another_name() -> None:
    """Of an agent of this version."""
    with answering({f"{API}/instances": (403, {"detail": "not yours", "path": "$.id"})}) as (it, asked):
        with pytest.raises(Refused, match=r"\$\.id: not yours"):
            it.instance("POST", "/instances", {"port": 80})
        assert len(asked) == 1


def test_an_agent_that_knows_no_claims_is_not_asked_without_them() -> None:
    """What it explains would be another request's way."""
    with answering({"/explain": (200, {"decisions": []})}) as (it, asked), pytest.raises(Failure, match="no claims"):
        it.explain({**REQUEST, "claims": {"sub": "ann"}})
    assert [path for _, path, _ in asked] == ["/api/v1/explain"]


def test_what_is_refused_says_where_and_what_would_be_right() -> None:
    """As a problem document has it; and it is not asked again elsewhere."""
    problem = {"title": "Bad Request", "status": 400, "detail": "5000, and the most is 1000", "path": "$.limit"}
    said = r"^the agent refused: \$\.limit: 5000, and the most is 1000$"
    with answering({"/api/v1/agent": (400, problem)}) as (it, asked), pytest.raises(Refused, match=said):
        it.state()
    assert len(asked) == 1


@pytest.mark.parametrize("told", [[], "text", 5, None])
def test_what_is_no_agent(told: Any) -> None:
    """It answers in JSON, and says nothing that an agent would."""
    with answering({"/api/v1/agent": (200, told)}) as (it, _), pytest.raises(Failure, match="no agent of Shoal"):
        it.state()
