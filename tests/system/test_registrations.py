"""How long a registration lasts, and whose a port is: with real programs that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from registry.etcd.server import free_port
from tests.support.mesh import ROOT, SERVICE_PROGRAM, SHOAL, running_mesh, until
from tests.support.processes import descendants, tell


def test_a_program_whose_run_was_killed_is_nobody_elses(tmp_path: Path) -> None:
    """kill -9 of `shoal run`: while fresh, its port is refused by name; then it is gone, and cart is never answered
    by bank, who has the port."""
    with running_mesh(tmp_path) as mesh:
        host = mesh.agent()
        port = free_port()
        program = [sys.executable, str(SERVICE_PROGRAM), "--port", "{port}", "--address", host.address]
        words = ["run", "--service", "cart", "--port", str(port), "--", *program]
        log = mesh.folder / "run.log"
        with open(log, "wb") as out:
            run = subprocess.Popen([*SHOAL, "--admin", str(host.socket), *words], cwd=ROOT, stdout=out, stderr=out)
        try:
            until("cart is served", lambda: host.ask("cart").status == 200)
        finally:
            children = descendants(run.pid)
            run.kill()
            for child in children:
                tell(child, signal.SIGKILL)
            run.wait()
        bank = ("register", "--service", "bank", "--port", str(port))
        refused = mesh.shoal("--admin", str(host.socket), *bank, check=False)
        assert refused.returncode == 1 and f"{host.address}:{port} is cart/" in refused.stderr
        mesh.service("v9", host.address, port=port)
        until("bank may have it", lambda: not mesh.shoal("--admin", str(host.socket), *bank, check=False).returncode)
        until("bank is served", lambda: host.ask("bank").version == "v9")
        assert host.ask("cart").status == 503
        assert [local["service"] for local in host.state()["local"]].count("cart") == 0
