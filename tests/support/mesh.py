"""A real mesh for system tests: etcd, agents and services as processes, and a client that counts failures."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.etcd.server import EtcdProcess, find_binary, free_port
from tests.support.local import ask

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICE_PROGRAM = ROOT / "tests" / "support" / "service.py"
SHOAL = [sys.executable, "-m", "agent"]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PATIENCE_S = 60.0


def until(what: str, question: Any, patience_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is true; returns it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            answer = question()
        except (OSError, KeyError, ValueError, http.client.HTTPException):
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:g} s"
        time.sleep(0.03)


class AgentProcess:
    """One agent, on an address of its own."""

    def __init__(
        self,
        mesh: Mesh,
        host: str,
        address: str,
        extra: str = "",
        state_dir: Path | None = None,
        local: str = "",
        lease_ttl: str = "10s",
        outbound: str = "",
        audit: str = "",
    ) -> None:
        """`extra` goes before the tables of agent.toml, `local`, `outbound` and `audit` into theirs. A busy machine
        loses a lease of 3 s, and takes as long to start an agent: only who waits for the end of one takes less."""
        self.host = host
        self.address = address
        self.outbound, self.inbound, self.admin = free_port(), free_port(), free_port()
        self.state_dir = state_dir or mesh.folder / f"{host}.state"
        self.socket = mesh.sockets / f"{host}-{len(mesh.agents)}"
        self.path = mesh.folder / f"{host}.toml"
        self.log = mesh.folder / f"{host}.log"
        self.path.write_text(
            f'host = "{host}"\naddress = "{address}"\nstate_dir = "{self.state_dir}"\ndrain_timeout = "3s"\n'
            f'lease_ttl = "{lease_ttl}"\n{extra}\n[etcd]\nendpoints = ["{mesh.etcd.url}"]\ntimeout = "2s"\n'
            f'[outbound]\nlisten = "{address}:{self.outbound}"\n{outbound}\n'
            f'[inbound]\nlisten = "{address}:{self.inbound}"\n'
            f'[admin]\nlisten = "{address}:{self.admin}"\n[local]\nsocket = "{self.socket}"\n{local}\n'
            f"[audit]\n{audit}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.on: list[str] = []
        """What stands before its command: where it runs."""
        self.tree = ROOT
        """What is run: this version, or another."""

    def start(self, *, wait: bool = True) -> None:
        """Start it; until it is ready."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.on, *SHOAL, "agent", "--config", str(self.path)],
                stdout=log,
                stderr=log,
                cwd=self.tree,
                start_new_session=True,
            )
        if wait:
            until(f"{self.host} ready", self.ready)

    def ready(self) -> bool:
        """Whether /readyz says so."""
        with DIRECT.open(f"http://{self.address}:{self.admin}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)

    def state(self) -> dict[str, Any]:
        """/state."""
        with DIRECT.open(f"http://{self.address}:{self.admin}/state", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def text(self, path: str) -> str:
        """A page of the admin port."""
        with DIRECT.open(f"http://{self.address}:{self.admin}{path}", timeout=5) as answer:
            return str(answer.read(), "utf-8")

    def register(self, service: str, port: int, **more: Any) -> dict[str, Any]:
        """Register an instance."""
        answer = ask(self.socket, "POST", "/api/v1/instances", {"service": service, "port": port, **more})
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json
        return found

    def ask(self, service: str = "pets.production", path: str = "/", method: str = "GET", **headers: str) -> Answer:
        """One request through the outbound listener, on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, self.outbound, timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers={"Host": service, **named})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def tell(self, number: int) -> None:
        """Send a signal to control."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


class Answer:
    """Of one request."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def version(self) -> str:
        """Which version of the service answered."""
        return self.headers.get("x-version", "")


class Mesh:
    """Everything that runs; all of it ends with the block."""

    def __init__(self, folder: Path, *etcd_options: str) -> None:
        self.folder = folder
        self.sockets = Path(tempfile.mkdtemp(prefix="shoal-"))
        self.sockets.chmod(0o755)  # other users of the host ask there, too
        self.etcd = EtcdProcess(folder / "etcd", arguments=etcd_options)
        self.agents: list[AgentProcess] = []
        self.services: list[subprocess.Popen[bytes]] = []

    def agent(
        self, host: str = "alpha", address: str = "127.0.0.1", *, start: bool = True, **more: Any
    ) -> AgentProcess:
        """A new agent."""
        agent = AgentProcess(self, host, address, **more)
        self.agents.append(agent)
        if start:
            agent.start()
        return agent

    def service(
        self, version: str = "v1", address: str = "127.0.0.1", *, port: int = 0, proxy: str = ""
    ) -> tuple[int, subprocess.Popen[bytes]]:
        """A service process; its port. What it calls goes through `proxy`."""
        port = port or free_port()
        command = [
            sys.executable,
            str(SERVICE_PROGRAM),
            "--address",
            address,
            "--port",
            str(port),
            "--version",
            version,
        ]
        with open(self.folder / "services.log", "ab") as log:
            environment = {**os.environ, "HTTP_PROXY": proxy, "http_proxy": proxy, "no_proxy": "127.0.0.1"}
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        self.services.append(process)
        until("the service", lambda: DIRECT.open(f"http://{address}:{port}/health", timeout=2).status == 200)
        return port, process

    def instance(self, agent: AgentProcess, version: str = "v1", service: str = "pets.production") -> int:
        """A service process, registered with an agent and healthy; its port."""
        port, _ = self.service(version, agent.address)
        agent.register(service, port, version=version, health={"http": {"path": "/health"}, "interval": "500ms"})
        until(f"{service} on {port} healthy", lambda: self.healthy(agent, service, port))
        return port

    def caller(self, agent: AgentProcess, service: str) -> None:
        """A healthy instance whose own calls go through the mesh under its name."""
        port = free_port()
        registered = agent.register(service, port, health={"http": {"path": "/health"}, "interval": "200ms"})
        self.service(address=agent.address, port=port, proxy=registered["proxy"])
        until(f"{service} healthy", lambda: self.healthy(agent, service, port))

    def healthy(self, agent: AgentProcess, service: str, port: int) -> bool:
        """Whether an agent's workers take an instance for healthy."""
        endpoints = agent.state()["services"][service]["endpoints"]
        return any(e["port"] == port and e["healthy"] for e in endpoints)

    def etcdctl(self, *words: str, data: str | None = None) -> str:
        """What an operator types."""
        done = subprocess.run(
            [find_binary("etcdctl"), "--endpoints", self.etcd.url, *words],
            env={**os.environ, "ETCDCTL_API": "3"},
            input=data,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return done.stdout

    def put(self, key: str, value: object) -> None:
        """`etcdctl put`, and wait until every agent runs it."""
        text = value if isinstance(value, str) else json.dumps(value)
        self.etcdctl("put", f"/shoal/default/{key}", text)
        self.shoal("wait")

    def shoal(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line."""
        return subprocess.run(
            [*SHOAL, "--etcd", self.etcd.url, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=check
        )

    def end(self) -> None:
        """End everything."""
        for agent in self.agents:
            process, agent.process = agent.process, None
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            _end_group(process)
        for service in self.services:
            service.kill()
            service.wait()
        self.etcd.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)


def _end_group(process: subprocess.Popen[bytes] | None) -> None:
    """Workers share the session that control began."""
    if process is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@contextmanager
def running_mesh(folder: Path, *etcd_options: str, new: bool = True) -> Iterator[Mesh]:
    """etcd runs; agents are started by the test. `new`: nothing stands there, so that they write under their hosts' own
    keys, as in every mesh that is made today; else it is one from before there were such, which agents of that version
    may join."""
    mesh = Mesh(folder, *etcd_options)
    mesh.etcd.start()
    if not new:
        mesh.etcdctl("put", "/shoal/default/confirmed/hosts", '{"state": "common"}')
    try:
        yield mesh
    finally:
        mesh.end()


class Traffic:
    """Requests without pause from a few threads, each on one kept connection; counts what failed."""

    def __init__(
        self, agent: AgentProcess, service: str = "pets.production", threads: int = 3, timeout_s: float = 10
    ) -> None:
        self._agent = agent
        self._service = service
        self._timeout_s = timeout_s
        self._going = True
        self.done = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        for thread in self._threads:
            thread.join(15)

    def more(self, count: int) -> None:
        """Wait for so many more requests."""
        goal = self.done + count
        until(f"{count} requests", lambda: self.done >= goal)

    def _run(self) -> None:
        connection = None
        while self._going:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(
                        self._agent.address, self._agent.outbound, timeout=self._timeout_s
                    )
                connection.request("GET", "/", headers={"Host": self._service})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    self.failures.append(f"{response.status} {body!r}")
                if response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                if connection is not None:
                    connection.close()
                connection = None
            self.done += 1
        if connection is not None:
            connection.close()
