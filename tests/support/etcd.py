"""A real etcd for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.server import EtcdProcess


@contextmanager
def running_etcd(folder: Path, **more: object) -> Iterator[EtcdProcess]:
    """One member, gone when the block is."""
    etcd = EtcdProcess(folder, **more)  # type: ignore[arg-type]
    etcd.start()
    try:
        yield etcd
    finally:
        etcd.stop()
