"""The audit log with real agents: what is recorded, by whom, what a disk that is full does, and what two agents know of
each other."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.audit.record import Record, parsed
from agent.audit.verify import examine
from agent.control.audit import files
from agent.control.audit.copies import PACKED, unpacked
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until

PETS = "pets.production"
DENY = {"rules": [{"name": "never", "deny": "anybody", "match": {"path": {"prefix": "/secret"}}}], "default": "allow"}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def folder(agent: AgentProcess) -> Path:
    return agent.state_dir / "audit"


def records(agent: AgentProcess, event: str = "") -> list[Record]:
    """Those of a kind, as they stand on disk; a piece of a line at the end is being written."""
    texts = [text for path in files.segments(folder(agent)) for text in files.lines(path) if text.endswith(b"\n")]
    found = [record for text in texts if isinstance(record := parsed(text), Record)]
    return [record for record in found if record.event.startswith(event)]


def findings(agent: AgentProcess) -> list[str]:
    segments = [(path.name, files.lines(path)) for path in files.segments(folder(agent))]
    return [str(found) for found in examine(segments, now_s=0.0).findings]


def test_what_is_recorded(mesh: Mesh) -> None:
    """Without a document what is denied, and who changed what; with one, all that it asks for."""
    near, far = mesh.agent("near", "127.0.0.1"), mesh.agent("far", "127.0.0.2")
    mesh.instance(far)
    until("seen", lambda: near.state()["services"][PETS]["endpoints"])
    assert near.ask(path="/fine").status == 200
    mesh.put(f"policies/authz/{PETS}", DENY)
    assert near.ask(path="/secret/x?token=1", user_agent="evil\tone").status == 403
    denied: Record = until("recorded", lambda: records(far, "authz.denied"))[0]
    assert denied.data is not None
    assert (denied.data["service"], denied.data["decision"], denied.data["status"]) == (PETS, "denied", 403)
    assert (denied.data["policy"], denied.data["rule"]) == (f"authz/{PETS}", "never")
    assert denied.data["revision"] > 0
    assert (denied.values["path"], denied.values["client"]) == ("/secret/x", "127.0.0.1")
    assert not records(near, "authz.denied"), "who decides records"
    assert not records(far, "request.allowed")
    put = until("put", lambda: records(near, "policy.put"))[0]
    assert put.data is not None and put.data["kind"] == "authz"
    assert {key: put.data["changed"][0][key] for key in ("path", "before")} == {"path": "$", "before": None}

    mesh.put(
        "policies/audit/*",
        {
            "requests": "all",
            "headers": ["user-agent"],
            "templates": ["/users/{id}"],
            "keep": "30d",
            "redact": ["client"],
        },
    )
    mesh.put(f"policies/audit/{PETS}", {"requests": "denied", "templates": ["/users/{id}"]})
    assert near.ask(path="/users/haxor69", User_Agent="curl\\8").status == 200
    allowed = until("recorded", lambda: records(far, "request.allowed"))[-1]
    assert allowed.data is not None
    assert allowed.data["path"] == "/users/{id}"
    assert allowed.values["header.user-agent"] == "curl\\8"
    assert allowed.values["client"] == "127.0.0.1", "the other document redacts nothing"
    assert 30 * 86400 <= allowed.until - allowed.at <= 90 * 86400 + 1

    mesh.etcdctl("put", f"/shoal/default/policies/authz/{PETS}", '{"rules": [{"alow": "anybody"}]}')
    refused = until("refused", lambda: records(far, "policy.refused"))[0]
    assert refused.data is not None and "alow" in refused.data["why"]
    mesh.etcdctl("del", f"/shoal/default/policies/authz/{PETS}")
    until("removed", lambda: records(far, "policy.removed"))
    assert findings(near) == findings(far) == []

    # Killed in the middle of it, and started again: the chain goes on.
    last = records(far)[-1].n
    assert far.process is not None
    os.killpg(far.process.pid, signal.SIGKILL)
    far.process.wait()
    far.start()
    mesh.put("policies/timeout/*", {"request": "5s"})
    until("goes on", lambda: records(far)[-1].n > last)
    assert findings(far) == []
    assert [record.n for record in records(far)] == list(range(1, records(far)[-1].n + 1))
    news = [record.data for record in records(far, "policy.put") if record.data is not None]
    found = {(data["kind"], data["service"]) for data in news}
    assert found == {("authz", PETS), ("audit", "*"), ("audit", PETS), ("timeout", "*")}, "once more, but never none"


def test_sync_answers_after_the_record(mesh: Mesh) -> None:
    """With a disk that does not take it a request is refused, or goes on, as the document says."""
    agent = mesh.agent(extra="", audit=f'directory = "{mesh.folder}/limited"')
    mesh.instance(agent)
    log = Path(f"{mesh.folder}/limited")

    def on_disk(event: str) -> list[dict[str, Any]]:
        return [
            {**(record.data or {}), **record.values}
            for path in files.segments(log)
            for text in files.lines(path)
            if isinstance(record := parsed(text), Record) and record.event == event
        ]

    mesh.put(f"policies/audit/{PETS}", {"requests": "all", "durability": "sync"})
    mesh.put(f"policies/authz/{PETS}", DENY)
    for n in range(5):
        assert agent.ask(path=f"/{n}").status == 200
        assert [each["path"] for each in on_disk("request.allowed")] == [f"/{each}" for each in range(n + 1)]
    assert agent.ask(path="/secret").status == 403
    assert [each["path"] for each in on_disk("authz.denied")] == ["/secret"]

    # Reloaded under load: whoever waits is answered by the process that comes, and nobody is refused.
    pids = {worker["pid"] for worker in agent.state()["workers"]}
    with Traffic(agent, timeout_s=60) as traffic:
        traffic.more(20)
        agent.tell(signal.SIGHUP)
        until("others", lambda: agent.ready() and not pids & {worker["pid"] for worker in agent.state()["workers"]})
        traffic.more(20)
    assert traffic.failures == []
    assert len(on_disk("request.allowed")) == 5 + traffic.done

    # No room: nothing can be written any more, whoever tries.
    open_one = next(path for path in files.segments(log) if path.suffix == files.OPEN)
    assert agent.process is not None
    size = open_one.stat().st_size
    subprocess_limit(agent.process.pid, size)
    answer = agent.ask(path="/x")
    assert (answer.status, answer.headers["x-shoal-policy"]) == (503, "audit")
    assert agent.ask(path="/secret").status == 403
    mesh.put(f"policies/audit/{PETS}", {"requests": "all", "durability": "sync", "on_failure": "allow"})
    assert agent.ask(path="/y").status == 200
    assert until("told", lambda: agent.state()["audit"]["error"])
    subprocess_limit(agent.process.pid, None)
    mesh.put(f"policies/audit/{PETS}", {"requests": "all", "durability": "sync"})
    until("again", lambda: agent.ask(path="/z").status == 200)
    until("lost", lambda: sum(each["count"] for each in on_disk("audit.lost")) >= 2)
    assert "/z" in [each["path"] for each in on_disk("request.allowed")]
    assert "/x" not in [each["path"] for each in on_disk("request.allowed")]


def subprocess_limit(pid: int, size: int | None) -> None:
    """How large a file a process may write; None: any."""
    import resource

    unlimited = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited if size is None else size, unlimited))


def test_records_go_to_sinks_and_closed_segments_to_a_directory(mesh: Mesh) -> None:
    """The lines as they stand in the log, and whole segments, which verify where they are."""
    shipped, mount = mesh.folder / "audit.jsonl", mesh.folder / "mount"
    mount.mkdir()
    sink = f'[[records.sinks]]\nto = "{shipped}"\nkinds = ["audit"]'
    agent = mesh.agent(audit=f'segment_age = "1s"\ncopy_to = "{mount}"\n{sink}')
    mesh.instance(agent)
    mesh.put(f"policies/authz/{PETS}", DENY)
    assert agent.ask(path="/secret/1").status == 403
    denied = until("recorded", lambda: records(agent, "authz.denied"))[0]
    line = next(text for path in files.segments(folder(agent)) for text in files.lines(path) if b"/secret/1" in text)
    until("shipped", lambda: line in shipped.read_bytes().splitlines(keepends=True))

    def copied() -> list[Record]:
        there = sorted((mount / agent.host).iterdir()) if (mount / agent.host).exists() else []
        texts = [text for path in there if path.name.endswith(PACKED) for text in unpacked(path)]
        return [record for text in texts if isinstance(record := parsed(text), Record)]

    until("copied", lambda: denied in copied())


def test_what_is_only_watched_is_counted(mesh: Mesh) -> None:
    """And records nothing; nor does a broken document where there was none."""
    agent = mesh.agent()
    mesh.instance(agent)
    mesh.put(f"audits/audit/{PETS}", {"requests": "all"})
    mesh.etcdctl("put", f"/shoal/default/policies/audit/{PETS}", json.dumps({"requests": "some"}))
    until("refused", lambda: agent.state()["refused"])
    for _ in range(3):
        assert agent.ask().status == 200
    counted = f'kind="audit",document="{PETS}",done="not recorded",would="recorded"'
    until("counted", lambda: _labels(counted) <= _labels(agent.text("/metrics")))
    assert not records(agent, "request.")


def _labels(text: str) -> set[str]:
    """Each of them, in whatever order they stand."""
    return set(re.findall(r'\w+="[^"]*"', text))
