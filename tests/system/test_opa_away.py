"""An Open Policy Agent that an agent may not ask, or that is not there: who operates is told before users are."""

from __future__ import annotations

import json
from pathlib import Path

from registry.etcd.server import free_port
from tests.support.mesh import running_mesh, until

KEY = "policies/authz/pets.production"


def test_check_says_whom_requests_wait_for_in_vain(tmp_path: Path) -> None:
    """One that the settings do not name, as soon as the document is in force; one that is dead, once it was asked."""
    dead, other = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with running_mesh(tmp_path) as mesh:
        alpha = mesh.agent(audit=f'[opa]\nallow = ["{dead}"]')
        mesh.instance(alpha)

        def found() -> list[dict[str, str]]:
            told = mesh.shoal("-o", "json", "--admin", str(alpha.socket), "check", check=False).stdout
            return [each for each in json.loads(told) if each["id"] == "opa"]

        mesh.put(KEY, {"opa": {"url": other, "path": "shoal/allow"}})
        (one,) = found()
        assert (one["severity"], one["where"], one["hosts"]) == ("error", "authz/pets.production", ["alpha"])
        assert f"may not ask {other}" in one["what"] and f'add "{other}" to [opa] allow' in one["next"]

        mesh.put(KEY, {"opa": {"url": dead, "path": "shoal/allow"}})
        assert found() == []
        until("denied", lambda: alpha.ask().status == 403)
        (one,) = found()
        assert "alpha asks in vain: the OPA at 127.0.0.1:" in one["what"] and "refused" in one["what"].lower()
