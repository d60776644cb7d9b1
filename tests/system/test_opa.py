"""Agents that ask a real OPA, which `scripts/interop opa` builds; without it these are left out. (In
tests/agent/proxy/judges/test_opa.py the test is the OPA, byte by byte.)"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import free_port
from tests.support.mesh import DIRECT, Mesh, running_mesh, until
from tests.system.test_guards import credentials, said
from tests.system.test_rego import DENIED, KEY, LAMPS

OPA = os.environ.get("SHOAL_OPA", "")
pytestmark = pytest.mark.skipif(not OPA, reason="scripts/interop builds a real OPA")
REGO = """
package shoal

default allow := false

allow if {
    input.source.service == "shop.production"
    startswith(input.path, "/lamps/")
}
"""


class Real:
    """One on this host."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        (folder / "shoal.rego").write_text(REGO)
        self._command = [OPA, "run", "--server", "--addr", f"127.0.0.1:{self.port}", "--log-level", "info"]
        self._command += ["--set", "decision_logs.console=true", str(folder / "shoal.rego")]
        self._log = folder / "opa.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until("OPA", lambda: DIRECT.open(f"{self.url}/health", timeout=5).status == 200)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(60)

    @property
    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture
def opa(tmp_path: Path) -> Iterator[Real]:
    real = Real(tmp_path)
    real.start()
    yield real
    real.stop()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path / "mesh") as running:
        yield running


def test_an_agent_asks_it(mesh: Mesh, opa: Real) -> None:
    """Its decision is enforced, and its id told; while it is away nobody gets in, and once it is back they do."""
    agent = mesh.agent(extra=f'opa.allow = ["{opa.url}"]')
    mesh.instance(agent, service=LAMPS)
    shop, web = credentials(agent, "shop.production", 7001), credentials(agent, "web.production", 7002)
    mesh.put(KEY, {"opa": {"url": opa.url, "path": "shoal/allow", "timeout": "10s"}})
    for _ in range(3):
        assert agent.ask(LAMPS, path="/lamps/7", **shop).status == 200
        assert said(agent.ask(LAMPS, path="/lamps/7", **web)) == DENIED
        assert said(agent.ask(LAMPS, path="/other", **shop)) == DENIED
    told = mesh.shoal(
        "--admin", str(agent.socket), "explain", "--as", "web.production", "GET", f"http://{LAMPS}/"
    ).stdout
    assert "opa: shoal/allow is false (decision " in told
    decision = told.partition("(decision ")[2].partition(")")[0]
    until("noted", lambda: decision in opa.said)
    assert '"source":{"namespace":"production"' in opa.said
    opa.stop()
    for _ in range(5):
        assert said(agent.ask(LAMPS, path="/lamps/7", **shop)) == DENIED
    opa.start()
    until("asked again", lambda: agent.ask(LAMPS, path="/lamps/7", **shop).status == 200)
    mesh.put(KEY, {"opa": {"url": "http://127.0.0.1:1", "path": "shoal/allow"}})
    assert said(agent.ask(LAMPS, path="/lamps/7", **shop)) == DENIED
