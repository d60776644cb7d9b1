"""One real etcd for the whole folder: every test has a prefix of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.server import EtcdProcess
from tests.support.etcd import running_etcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    folder: Path = tmp_path_factory.mktemp("etcd")
    with running_etcd(folder) as member:
        yield member
