"""`shoal watch`: what changes is told with its revision, and how it comes into force, whatever happens to etcd."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import ROOT, SHOAL, Mesh, running_mesh, until

PETS = "pets.production"


WATCHERS: list[Watcher] = []
"""Those of a test."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as mesh:
        try:
            yield mesh
        finally:
            for watcher in WATCHERS:
                watcher.kill()
            WATCHERS.clear()


class Watcher:
    """`shoal watch`, as programs read it."""

    def __init__(self, mesh: Mesh, *words: str) -> None:
        command = [*SHOAL, "--etcd", mesh.etcd.url, "-o", "json", "watch", *words]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        WATCHERS.append(self)
        until("it watches", lambda: self.of("etcd"))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def of(self, what: str, text: str = "") -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["what"] == what and text in line["text"]]

    def one(self, what: str, text: str = "") -> dict[str, Any]:
        """The first such line, once it is there."""
        found: list[dict[str, Any]] = until(f"{what}: {text}", lambda: self.of(what, text))
        return found[0]

    def ended(self) -> int:
        """Its exit code, by itself."""
        code = self.process.wait(60)
        self._thread.join(10)
        return code

    def interrupted(self) -> str:
        """What it said on standard error until Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        assert self.ended() == 130
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def kill(self) -> None:
        """Whatever it does."""
        self.process.kill()
        self.process.wait()
        self._thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def test_changes_and_how_they_come_into_force(mesh: Mesh) -> None:
    """Documents, instances, a host that lags, and an etcd that goes, is compacted, and comes back."""
    first, second = mesh.agent("a", "127.0.0.1"), mesh.agent("b", "127.0.0.2")
    watcher = Watcher(mesh)
    assert watcher.lines[0]["stands"]["agents"] == 2
    retries = Watcher(mesh, "shop.production", "--kind", "retry", "--once", "--for", "60s")

    mesh.instance(first, "v1")
    came = watcher.one("instance", f"{PETS}/")
    assert came["change"] == "came" and came["agent"] == "a" and "v1" in came["text"]
    assert watcher.one("health", "healthy")["revision"] > 0

    document = {"active": "v1", "by": "ada\x1b[2J", "reason": "a canary"}
    mesh.etcdctl("put", f"/shoal/default/policies/route/{PETS}", json.dumps(document))
    put = watcher.one("policy", f"route/{PETS} was put")
    assert (put["by"], put["reason"], put["change"]) == ("ada\x1b[2J", "a canary", "put")
    reached = watcher.one("in_force", f"route/{PETS}")
    assert reached["revision"] == put["revision"] and (reached["agents"], reached["of"]) == (2, 2)
    assert reached["after_s"] > 0 and not reached["refused"] and not reached["not_enforced"]

    mesh.etcdctl("put", f"/shoal/default/policies/route/{PETS}", '{"activ": "v1"}')
    refused = watcher.one("reached", "is refused")
    assert refused["refused"] == [f"route/{PETS}"]
    said = watcher.one("refused", "stays in force")
    assert said["refused"] == refused["revision"] and said["last_good"] == put["revision"]

    workers = [str(worker["pid"]) for worker in second.state()["workers"]]
    subprocess.run(["kill", "-STOP", *workers], check=True)
    mesh.etcdctl("put", "/shoal/default/policies/retry/*.production", '{"attempts": 2}')
    behind = watcher.one("lagging", "retry/*.production")
    assert behind["runs"] == ["a"] and list(behind["lagging"]) == ["b"]
    subprocess.run(["kill", "-CONT", *workers], check=True)
    late = watcher.one("in_force", "retry/*.production")
    assert late["after_s"] >= behind["after_s"] and late["revision"] == behind["revision"]
    assert retries.ended() == 0 and {line["what"] for line in retries.lines} <= {
        "etcd",
        "policy",
        "lagging",
        "in_force",
    }

    mesh.etcd.stop()
    watcher.one("etcd", "does not answer")
    mesh.etcd.start()
    watcher.one("etcd", "answers again")
    mesh.etcdctl("del", "/shoal/default/policies/retry/*.production")
    removed = watcher.one("policy", "was removed")
    until(
        "that is in force", lambda: [line for line in watcher.of("in_force") if line["revision"] >= removed["revision"]]
    )
    assert watcher.interrupted() == ""
    assert [line for line in watcher.lines if not line["time"]] == []


def test_who_asks_for_what_is_not_there_is_told(mesh: Mesh) -> None:
    """Nothing came in time; nobody is alive; no etcd."""
    assert Watcher(mesh, "--once", "--for", "1s").ended() == 1
    alone = Watcher(mesh, "--once", "--for", "30s")
    mesh.etcdctl("put", f"/shoal/default/policies/retry/{PETS}", '{"attempts": 2}')
    assert alone.ended() == 1 and alone.of("reached", "no agent is alive")
    mesh.etcd.stop()
    assert mesh.shoal("--etcd-timeout", "1", "watch", check=False).returncode == 3
    for words in (
        ["--kind", "rout"],
        ["--only", "all"],
        ["--for", "soon"],
        ["a..b"],
        ["--kind", "route", "--only", "mesh"],
    ):
        assert mesh.shoal("watch", *words, check=False).returncode == 2
