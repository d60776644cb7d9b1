"""Agents of Shoal for a measurement: `shoal agent` as anyone starts it, with its own ports and directory."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from scripts.benchmark import mesh
from scripts.benchmark.processes import Program, free_ports, running, wait_until


class Agent(msgspec.Struct, frozen=True):
    """A running agent."""

    host: str
    outbound: int
    admin: int
    program: Program

    def roles(self) -> dict[int, str]:
        """What each process of the tree is for: control, a worker, or who evaluates Rego for it."""
        return {pid: _role(pid) for pid in self.program.tree()}

    def state(self) -> dict[str, Any]:
        """What it tells of itself on its admin port."""
        return self.told("/state")

    def told(self, path: str) -> dict[str, Any]:
        """An answer of its admin port."""
        found: dict[str, Any] = json.loads(self._get(path))
        return found

    def ready(self) -> bool:
        """Whether it has learnt the mesh."""
        try:
            self._get("/readyz")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"{path}: {answer.status}")
            return answer.read()
        finally:
            connection.close()


def _role(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "control"
    return "worker" if b"agent.proxy" in words else "evaluator" if b"agent.rego" in words else "control"


def settings(
    host: str,
    etcd_url: str,
    mesh: str,
    ports: Sequence[int],
    directory: Path,
    more: str = "",
    *,
    access_log: bool = True,
) -> str:
    """agent.toml: one worker; access records to a file, or none; the rest as it comes."""
    outbound, inbound, admin = ports
    records = f"{directory}/access.log" if access_log else ""
    return f"""
mesh = "{mesh}"
host = "{host}"
address = "127.0.0.1"
workers = 1
state_dir = "{directory}"
access_log = "{records}"
spread_timeout = "0s"
drain_timeout = "1s"

[etcd]
endpoints = ["{etcd_url}"]

[outbound]
listen = "127.0.0.1:{outbound}"

[inbound]
listen = "127.0.0.1:{inbound}"

[admin]
listen = "127.0.0.1:{admin}"

[local]
socket = "{directory}/agent.sock"
{more}"""


@contextmanager
def running_agent(
    workdir: Path,
    host: str,
    etcd_url: str,
    *,
    mesh: str = "default",
    cpus: Sequence[int] = (),
    wait: bool = True,
    more: str = "",
    access_log: bool = True,
) -> Iterator[Agent]:
    """An agent; ready, unless the caller wants to see how it becomes so. `more` ends its settings."""
    ports = free_ports(3)
    directory = workdir / f"agent-{host}-{ports[0]}"
    directory.mkdir()
    config = directory / "agent.toml"
    config.write_text(settings(host, etcd_url, mesh, ports, directory, more, access_log=access_log))
    argv = [sys.executable, "-m", "agent", "agent", "--config", str(config)]
    with running(f"agent {host}", argv, directory / "agent.log", cpus=cpus) as program:
        agent = Agent(host, ports[0], ports[2], program)
        if wait:
            wait_until(f"agent {host}", agent.ready, program)
        yield agent


def swap(agent: Agent, url: str, puts: dict[str, bytes | None]) -> None:
    """Put or delete; returns when the workers run it, and when what there is to do once, such as to write down which
    document was good, is done: it is no cost of requests."""
    revision = mesh.change_all(url, puts)
    wait_until("the policy", lambda: all(w["revision"] >= revision for w in agent.state()["workers"]), agent.program)
    agent.program.rest()
