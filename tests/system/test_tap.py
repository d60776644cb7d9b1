"""`shoal tap`: live requests of two hosts, whatever happens to workers and readers, and whatever is sent."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local import ask
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.reading import Reading

PETS = "pets.production"
SECRET = "s3cret-never-shown"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        yield mesh


class Tap(Reading):
    """`shoal tap`, by way of an agent."""

    def __init__(self, agent: AgentProcess, *words: str) -> None:
        super().__init__(agent, "tap", *words)

    def of(self, path: str) -> list[Any]:
        return [each for each in list(self.lines) if each["target"].startswith(path)]


def taps(agent: AgentProcess) -> int:
    return int(agent.state()["followed"]["taps"])


def huge_head(agent: AgentProcess) -> bytes:
    """5 MiB of one header; what is answered."""
    with socket.create_connection((agent.address, agent.outbound), timeout=20) as client:
        client.sendall(f"GET /huge?token={SECRET} HTTP/1.1\r\nHost: {PETS}\r\nX: ".encode())
        answer = b""
        try:
            for _ in range(80):
                client.sendall(b"x" * 65536)
        except OSError:
            pass  # it is refused long before
        try:
            answer = client.recv(65536)
        except OSError:
            pass
        return answer


def test_two_hosts_are_tapped_at_once(mesh: Mesh) -> None:
    """Both sides of a call under one id, with what was decided, redacted and cut as a document says; a head of 5 MiB is
    shown as what was refused; a worker that is killed costs what it had under way; who is gone is forgotten; who may
    not tap is told so, and who did is in the audit log."""
    alpha = mesh.agent("alpha", "127.0.0.1", extra="workers = 2")
    beta = mesh.agent("beta", "127.0.0.2", extra="workers = 2")
    mesh.instance(beta)
    shown = {"bodies": ["application/json"], "redact": ["path", "headers", "query"], "max_bytes": 16384}
    document = {"tap": {"headers": True, **shown}}
    mesh.put(f"policies/log/{PETS}", {**document, "redact_headers": ["x-email"], "redact_query": ["token"]})
    mesh.put(f"policies/route/{PETS}", {"rules": [{"name": "everything", "match": {}}]})
    assert [taps(agent) for agent in (alpha, beta)] == [0, 0]
    everything, headed = Tap(alpha), Tap(beta, PETS, "--headers", "--bodies", "--path", "/cats")
    try:
        for tap in (everything, headed):
            until("it taps", lambda tap=tap: tap.noted("on alpha, beta; Ctrl-C ends it"))
        assert taps(alpha) == 2
        headers = {"Authorization": f"Bearer {SECRET}", "X_Email": SECRET, "X_Long": "x" * 5000, "X_Request_Id": "17"}
        assert alpha.ask(PETS, f"/cats?token={SECRET}", **headers).status == 200
        until("both sides", lambda: len(headed.of("/cats")) == 2)
        by_side = {each["direction"]: each for each in headed.lines}
        out, into = by_side["outbound"], by_side["inbound"]
        assert (out["agent"], into["agent"], out["request_id"], into["request_id"]) == ("alpha", "beta", "17", "17")
        (route,) = [each for each in out["decisions"] if each["phase"] == "route"]
        assert route["policy"] == f"route/{PETS}" and route["revision"] and "everything" in route["reason"]
        assert any("via agent beta" in each["decision"] for each in out["decisions"])
        assert SECRET not in json.dumps(headed.lines)
        for row in (out, into):
            shown = dict(row["request"]["headers"])
            assert shown["authorization"] == shown["x-email"] == "[redacted]" and len(shown["x-long"]) == 257
            assert json.loads(row["answer"]["body"])["path"] == "[redacted]" and not row["request"]["no_body"]
        until("the other tap", lambda: len(everything.of("/cats")) == 2)
        assert all(each["request"]["headers"] is None for each in everything.of("/cats")), "it has not asked for them"

        huge_head(alpha)
        until("it is shown", lambda: everything.of("/huge"))
        (row,) = everything.of("/huge")
        assert (row["status"], row["target"], row["agent"]) == (431, "/huge?[redacted]", "alpha")
        assert len(json.dumps(row)) < 4000

        victim = alpha.state()["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        until("a successor", lambda: victim not in [each["pid"] for each in alpha.state()["workers"] if each["ready"]])
        until("both workers", lambda: sum(each["ready"] for each in alpha.state()["workers"]) == 2)
        for n in range(20):
            assert alpha.ask(PETS, f"/after/{n}").status == 200
        until("all of them", lambda: len(everything.of("/after")) == 40)
        assert all(each["decisions"] is not None for each in everything.of("/after"))
    finally:
        for tap in (everything, headed):
            tap.end()
    until("they are forgotten", lambda: [taps(agent) for agent in (alpha, beta)] == [0, 0])

    one = Tap(alpha, PETS, "-n", "1", "--for", "30s")
    try:
        until("it taps", lambda: one.noted("Ctrl-C"))
        alpha.ask(PETS, "/last")
        assert one.process.wait(20) == 0
    finally:
        one.end()
    assert len(one.lines) == 1
    refused = mesh.shoal("--admin", f"http://127.0.0.1:{alpha.admin}", "tap", PETS, check=False)
    assert refused.returncode == 1 and "asked for through the agent's own socket" in refused.stderr
    asked = ask(alpha.socket, "GET", "/api/v1/taps?path=/a%3Fb", None)
    assert asked.status == 400 and asked.json["path"] == "$.path"
    query = ("-o", "json", "audit", "query", "--event", "operator.asked")
    recorded = mesh.shoal("--admin", str(alpha.socket), *query).stdout
    assert f"GET /api/v1/taps?service={PETS}" in recorded
