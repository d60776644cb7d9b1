"""deploy/strict.md, line by line: under load, each step with its way back, and not one request that fails."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mesh import ROOT, AgentProcess, Mesh, Traffic, running_mesh, until
from tests.system.test_mesh_rights import run
from tests.system.test_mtls import counted, in_plain_text

PAGE = (ROOT / "deploy" / "strict.md").read_text().replace("web-1", "alpha").replace("web-2", "beta")
STEPS = {
    int(number): re.findall(r"```sh( back)?\n(.*?)```", text, re.DOTALL)
    for number, text in re.findall(r"^## (\d)\. [^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}


class Walk:
    """An operator's terminal, which remembers what was exported, and a mesh under load."""

    def __init__(self, mesh: Mesh, folder: Path, traffic: Traffic) -> None:
        self.mesh, self.folder, self.traffic = mesh, folder, traffic
        self._exported = ""

    def type(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = run(self.mesh.etcd, self.folder, self._exported + script, check=False)
        assert done.returncode == 0 or not check, (script, done.stdout, done.stderr)
        self._exported += "".join(line + "\n" for line in script.splitlines() if line.startswith("export "))
        self.traffic.more(60)
        assert self.traffic.failures == []
        return done

    def patiently(self, script: str) -> None:
        """What is refused until agents are so far."""
        until(script, lambda: self.type(script, check=False).returncode == 0)

    def there_and_back(self, step: int) -> None:
        (*before, (_, forth), (back, again)) = STEPS[step]
        assert back and not any(back for back, _ in before)
        for _, script in before:
            self.type(script)
        for script in (forth, again, forth):
            self.patiently(script)


def named(agent: AgentProcess, folder: Path) -> None:
    """As step 3 says: its user, its file, and a reload."""
    (settings,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    settings = settings.replace("/etc/shoal/", f"{folder}/").replace("alpha", agent.host)
    agent.path.write_text(agent.path.read_text().replace("[etcd]\n", settings))
    before = agent.state()["workers"]
    agent.tell(signal.SIGHUP)
    until("reloaded", lambda: agent.ready() and agent.state()["workers"] != before)


def test_the_walk_under_load(tmp_path: Path) -> None:
    """An old mesh of two hosts, a caller on each, from the first step to the last."""
    with running_mesh(tmp_path, "--bcrypt-cost", "4") as mesh:
        alpha, beta = mesh.agent(), mesh.agent("beta", "127.0.0.2")
        mesh.instance(beta)
        with Traffic(alpha) as traffic:
            walk = Walk(mesh, tmp_path, traffic)
            assert STEPS[1] == []
            walk.there_and_back(2)
            (_, users), (_, enable), (_, disable) = STEPS[3]
            walk.type(users)
            for agent in (alpha, beta):
                named(agent, tmp_path)
            for script in (enable, disable, enable):
                walk.type(script)
            until("no right is missing", lambda: not alpha.state()["etcd"]["not_allowed"])
            for _, script in STEPS[4]:
                walk.patiently(script)
            walk.there_and_back(5)
            walk.there_and_back(6)
            until("hops are TLS", lambda: counted(beta, "shoal_tls_handshakes") > 0)
            ((_, status),) = STEPS[7]
            walk.patiently(status)
            walk.there_and_back(8)
            assert in_plain_text(beta) == 403
            traffic.more(200)
        assert traffic.failures == []
        for agent in (alpha, beta):
            assert agent.state()["etcd"]["not_allowed"] == [], agent.host


@pytest.mark.parametrize("step", range(1, 9))
def test_every_step_says_how_back(step: int) -> None:
    """Or why not."""
    text = re.split(r"^## \d\. ", PAGE, flags=re.MULTILINE)[step]
    assert "way back" in text or step == 7
