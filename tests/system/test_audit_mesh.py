"""Audit logs of several hosts: asked together, countersigned, copied, tampered with, and erased from."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.audit.record import Record, line, parsed
from agent.control.audit import files
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.system.test_audit import DENY, PETS, findings, folder, records

OFTEN = 'head_every = "1s"\nsegment_age = "2s"\n'


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


def audit(mesh: Mesh, agent: AgentProcess, *words: str) -> tuple[int, Any, str]:
    """Exit code, the answer in JSON, and what was noted."""
    done = mesh.shoal("--admin", str(agent.socket), "-o", "json", "audit", *words, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr


def kill(agent: AgentProcess) -> None:
    process, agent.process = agent.process, None
    assert process is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def rewrite(path: Path, change: Any) -> None:
    """A segment, as somebody with the rights of the agent would."""
    found = [parsed(text) for text in files.lines(path)]
    kept = change([record for record in found if isinstance(record, Record)])
    path.write_bytes(b"".join(line(record) for record in kept))


def test_three_hosts(mesh: Mesh) -> None:
    """A question to all; one of them dead: what others hold of it, what is missing, and exit code 3. Whose end was cut
    off is found out by the others."""
    near = mesh.agent("near", "127.0.0.1", audit=OFTEN)
    far = mesh.agent("far", "127.0.0.2", audit=OFTEN, lease_ttl="3s")
    mesh.agent("third", "127.0.0.3", audit=OFTEN)
    mesh.instance(far)
    until("seen", lambda: near.state()["services"][PETS]["endpoints"])
    mesh.put(f"policies/authz/{PETS}", DENY)
    mesh.put("policies/audit/*", {"headers": ["x-user"]})
    for n in range(7):
        assert near.ask(path="/secret", x_user=f"user{n % 2}").status == 403
    until("recorded", lambda: len(records(far, "authz.denied")) == 7)

    code, told, _ = audit(mesh, near, "query", "--event", "authz.denied", "--service", PETS, "--by", "header.x-user")
    assert (code, told["total"], told["missing"], told["spans"]) == (0, 7, {}, [])
    assert told["counts"] == [{"value": "user0", "count": 4}, {"value": "user1", "count": 3}]
    assert told["hosts"] == ["far", "near", "third"]
    code, told, _ = audit(mesh, near, "query", "--event", "policy.", "--since", "1h")
    (put,) = [record for record in told["records"] if record.get("kind") == "authz"]
    assert (code, put["event"], sorted(put["hosts"])) == (0, "policy.put", ["far", "near", "third"])
    shown = mesh.shoal("--admin", str(near.socket), "audit", "query", "--event", "authz.denied").stdout
    assert "rule=never" in shown and "path=/secret" in shown

    heads = until("countersigned", lambda: far.state()["audit"]["heads"]["countersigned"] > 7 and far.state()["audit"])
    assert heads["heads"]["problem"] == ""
    until("copied", lambda: copied(mesh, "far") >= 7)
    code, told, noted = audit(mesh, near, "verify")
    assert code == 0, (told, noted)
    assert {host: log["findings"] for host, log in told["logs"].items()} == {"far": [], "near": [], "third": []}
    assert "heads are not signed" in told["logs"]["far"]["note"]

    # One is gone: the others answer for it as far as they can, and say how far that is.
    kill(far)
    until("gone", lambda: "far" not in near.state()["agents"])
    code, told, noted = audit(mesh, near, "query", "--event", "authz.denied", "--host", "far", "--host", "near")
    assert (code, told["total"]) == (3, 7), (told, noted)
    (span,) = told["spans"]
    assert span["host"] == "far" and "copy" in span["reason"]
    code, told, noted = audit(mesh, near, "verify", "--host", "far")
    assert (code, told["logs"]["far"]["findings"]) == (0, []), noted
    assert "copy" in told["logs"]["far"]["note"]

    # Whoever rules it cuts its end off, and all its own heads: the others know better.
    until("an end", lambda: files.segments(folder(far)))
    (folder(far) / files.HEADS).unlink()
    segments = files.segments(folder(far))
    if len(segments) > 1:  # as many as there were seconds in which something was recorded
        segments.pop().unlink()
    kept = segments[-1]
    rewrite(kept, lambda found: found[: len(found) // 2])
    os.rename(kept, kept.with_suffix(files.OPEN))
    assert findings(far) == [], "by itself nobody can tell"
    far.start()
    until("back", lambda: "far" in near.state()["agents"])
    code, told, _ = audit(mesh, near, "verify")
    assert code == 1
    found = told["logs"]["far"]["findings"]
    assert {each["what"] for each in found} == {"changed"} or "cut" in {each["what"] for each in found}
    assert any("countersigned by" in each["reason"] for each in found)


def copied(mesh: Mesh, host: str) -> int:
    """Denials in what others hold of a host's log."""
    import gzip

    found = 0
    for agent in mesh.agents:
        for path in sorted((folder(agent) / files.COPIES / host).glob("*.gz")):
            found = max(found, gzip.decompress(path.read_bytes()).count(b"authz.denied") + found)
    return found


def test_erasing_somebody(mesh: Mesh) -> None:
    """On all hosts and in copies; the chains stay whole, and who was not asked is named."""
    near = mesh.agent("near", "127.0.0.1", audit=OFTEN)
    far = mesh.agent("far", "127.0.0.2", audit=OFTEN)
    mesh.instance(far)
    until("seen", lambda: near.state()["services"][PETS]["endpoints"])
    mesh.put(f"policies/authz/{PETS}", DENY)
    assert near.ask(path="/secret").status == 403
    until("recorded", lambda: records(far, "authz.denied"))
    until("copied", lambda: copied(mesh, "far"))
    code, told, noted = audit(mesh, near, "erase", "--client", "127.0.0.1")
    assert code == 0 and "1 records" in noted and told is None
    code, told, _ = audit(mesh, near, "erase", "--client", "127.0.0.1", "--yes")
    assert code == 0
    done = {row["host"]: (row["records"], row["copies"]) for row in told}
    assert done == {"far": (1, 0), "near": (0, 1)}
    for place in (near.state_dir, far.state_dir):
        for path in place.rglob("*.jsonl"):
            assert b'"client":"127.0.0.1"' not in path.read_bytes()
    (denied,) = records(far, "authz.denied")
    assert denied.values == {} and set(denied.personal) == {"client", "path", "reason"}
    code, told, noted = audit(mesh, near, "verify")
    assert code == 0, (told, noted)
    assert told["logs"]["far"]["erased"] == 1
    code, told, _ = audit(mesh, near, "query", "--event", "authz.denied")
    assert told["records"][0]["erased"] == ["client", "path", "reason"]
    code, _, noted = audit(mesh, near, "erase", "--claim", "sub")
    assert code == 2
