"""An instance fails and recovers, and the issue or ticket about it is opened, found again, commented on and closed.

With a real agent, over real sockets, at doubles that follow the documented APIs of GitHub and Jira.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.hooks.steps import Request
from tests.support.mesh import running_mesh, until
from tests.support.trackers import Double, GitHubDouble, JiraDouble
from tests.system.test_events import SERVICE, quiet, turn


@contextmanager
def served(double: Double, host: str) -> Iterator[str]:
    """The double behind a socket; `host` is whose place it takes. Its URL."""
    wrong: list[BaseException] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                answer = double.handle(Request(self.command, f"https://{host}{self.path}", headers, body))
            except BaseException as error:
                wrong.append(error)
                raise
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PATCH = _handle

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
    assert not wrong, wrong[0]


def github(url: str) -> dict[str, Any]:
    where = {"repo": "acme/ops", "labels": ["shoal", "prod"], "api": url, "reopen": "0s"}
    return {"format": "github-issue", "github": where, "secret": {"file": "token"}}


def jira(url: str) -> dict[str, Any]:
    where = {"api": url, "project": "OPS", "user": "bot@acme.example", "reopen": "0s"}
    return {"format": "jira", "jira": where, "secret": {"file": "token"}}


@pytest.mark.parametrize(
    ("double", "host", "hook", "closed"),
    [
        (GitHubDouble(crowd=150), "api.github.com", github, ("state", "closed")),
        (JiraDouble(), "acme.atlassian.net", jira, ("status", "Done")),
    ],
    ids=["github", "jira"],
)
def test_one_issue_a_failure(double: Any, host: str, hook: Any, closed: tuple[str, str], tmp_path: Path) -> None:
    """Twice: two failures are two issues, each closed by its own recovery; who was killed in between finds his own."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "token").write_text("t0ken\n")
    settings = f'workers = 1\n[hooks]\nallow = ["127.0.0.1"]\nsecrets_dir = "{secrets}"\n'
    settings += '[hooks.secrets]\ntoken = ["127.0.0.1"]\n'
    with served(double, host) as url, running_mesh(tmp_path) as mesh:
        agent = mesh.agent("alpha", "127.0.0.1", extra=settings)
        port = mesh.instance(agent)
        mesh.put(f"policies/webhook/{SERVICE}", {"hooks": {"issue": {**hook(url), "events": ["instance.*"]}}})
        for round in (1, 2):
            turn(port, "unhealthy")
            until("it is open", lambda: double.open() == 1)
            issues = double.all()
            assert len(issues) == round
            if round == 1:
                until("all told", lambda: quiet(mesh))
                agent.stop(9)
                agent.start()
            turn(port, "healthy")
            until("it is closed", lambda: double.open() == 0)
            until("all told", lambda: quiet(mesh))
        assert [issue[closed[0]] for issue in double.all()] == [closed[1]] * 2
        assert [len(issue["said"]) for issue in double.all()] == [1, 1], [issue["said"] for issue in double.all()]
