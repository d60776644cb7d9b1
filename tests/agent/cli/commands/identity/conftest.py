"""A real etcd for the commands of identity, and a mesh of its own in it for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from tests.support.etcd import running_etcd
from tests.support.operating import Mesh


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as process:
        yield process


@pytest.fixture
async def mesh(etcd: EtcdProcess, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,))) as store:
        yield Mesh(etcd, store, tmp_path)
