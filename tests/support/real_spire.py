"""A real SPIRE, server and agent, on loopback (`scripts/interop` builds it), with the face of the small server."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from registry.etcd.server import free_port
from tests.support.identity import TRUST_DOMAIN
from tests.support.mesh import until

PROGRAMS: Final = os.environ.get("SHOAL_SPIRE", "")
"""The folder of spire-server and spire-agent; empty: there is none."""
NODE: Final = f"spiffe://{TRUST_DOMAIN}/node/here"
SVID_S: Final = 60
_SERVER: Final = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  trust_domain = "{domain}"
  data_dir = "{folder}/server"
  default_x509_svid_ttl = "{svid_s}s"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server/db" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""
_AGENT: Final = """
agent {{
  data_dir = "{folder}/agent"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{path}"
  trust_bundle_path = "{folder}/bundle.pem"
  trust_domain = "{domain}"
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class RealSpire:
    """Its Workload API at a path, for programs of this user."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._path = path
        self._entries: dict[str, str] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        for name in ("server", "agent"):
            (folder / name).mkdir(parents=True)
        values = {"folder": folder, "path": path, "port": free_port(), "domain": TRUST_DOMAIN, "svid_s": SVID_S}
        (folder / "server.conf").write_text(_SERVER.format(**values))
        (folder / "agent.conf").write_text(_AGENT.format(**values))
        self._server = self._run("spire-server", "server.conf")
        until("SPIRE's server", lambda: self._ask("healthcheck") is not None)
        (folder / "bundle.pem").write_text(self._ask("bundle", "show") or "")
        token = self._ask("token", "generate", "-spiffeID", NODE) or ""
        self._token = token.removeprefix("Token: ").strip()

    def start(self) -> None:
        """Its agent, as it was before."""
        self._agent = self._run("spire-agent", "agent.conf", "-joinToken", self._token)
        until("the Workload API", self._path.exists)

    def stop(self) -> None:
        """Its agent is away."""
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(60)
            self._agent = None

    def close(self) -> None:
        """All of it ends."""
        self.stop()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(60)

    def give(self, *identities: str) -> None:
        """These, and no others, have an entry."""
        for identity in identities:
            if identity not in self._entries:
                told = self._ask(
                    "entry", "create", "-parentID", NODE, "-spiffeID", identity, "-selector", f"unix:uid:{os.geteuid()}"
                )
                found = re.search(r"Entry ID +: (\S+)", told or "")
                assert found is not None, told
                self._entries[identity] = found[1]
        for identity in set(self._entries) - set(identities):
            self._ask("entry", "delete", "-entryID", self._entries.pop(identity))

    def _run(self, program: str, settings: str, *more: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{program}.log").open("ab") as log:
            command = [str(Path(PROGRAMS) / program), "run", "-config", str(self._folder / settings), *more]
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _ask(self, *words: str) -> str | None:
        """What its server's command says; None: it failed."""
        verbs = [word for word in words[:2] if not word.startswith("-")]
        command = [str(Path(PROGRAMS) / "spire-server"), *verbs, "-socketPath", str(self._folder / "server.sock")]
        done = subprocess.run([*command, *words[len(verbs) :]], capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else None
