"""What the command line asks of an agent: of this version, and of the one before."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.cli.agent_client import API, Admin, Refused, check_place
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


@pytest.mark.parametrize(
    "answers",
    [
        {"/explain": (200, {"decisions": []})},
        {f"{API}/explain": (400, {"detail": "no field 'documents' here; there are: url, method", "path": "$"})},
    ],
)
def test_an_agent_that_supposes_nothing_is_not_asked_without_documents(answers: dict[str, Any]) -> None:
    """What it explains would be what is so already."""
    with answering(answers) as (it, asked), pytest.raises(Failure, match="of documents that are not put; ask another"):
        it.explain({**REQUEST, "documents": [{"kind": "retry", "pattern": "pets", "text": "{}"}]})
    assert [path for _, path, _ in asked] == [f"{API}/explain"]


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


def test_a_socket_may_be_named_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that looks like one, or is one; a host and a port without a scheme may mean either, and is refused."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("alpha")
        for text in ("agent.sock", "./agent", "../agent", "alpha", "unix:agent.sock"):
            assert check_place(text).startswith("/"), text
    for text in ("127.0.0.1:15000", "beta", "web-1", "unix:"):
        with pytest.raises(Failure, match="is no path of a socket"):
            check_place(text)
