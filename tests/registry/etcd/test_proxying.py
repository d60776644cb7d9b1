"""Where connections to etcd go: through the proxy of the settings, or through none, whatever the environment names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.etcd.proxying import through
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdSettings, EtcdStore
from tests.support.etcd import running_etcd
from tests.support.tunnel import Tunnel, environment_of


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    with running_etcd(tmp_path) as member:
        yield member


PUT = """
import sys, trio
from registry.etcd.store import EtcdSettings, EtcdStore
async def put():
    async with EtcdStore.open(EtcdSettings(endpoints=(sys.argv[1],), user="u", password="secret")) as store:
        print(await store.put("/a", b"1"))
trio.run(put)
"""


def test_proxies_of_the_environment_hear_nothing(etcd: EtcdProcess) -> None:
    """By any of the names that gRPC reads: etcd is reached, and the listener that they name is not."""
    with Tunnel() as tunnel:
        done = subprocess.run(
            [sys.executable, "-c", PUT, etcd.url],
            env=environment_of(tunnel),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == "2"
        assert tunnel.heard == []


async def test_the_proxy_of_the_settings_is_used(etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is a tunnel of it, also where the environment excepts the address, or names another."""
    monkeypatch.setenv("no_proxy", "*,127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Tunnel() as tunnel:
        async with EtcdStore.open(EtcdSettings(endpoints=(etcd.url,), proxy=tunnel.url)) as store:
            await store.put("/a", b"1")
        assert tunnel.heard == [f"CONNECT 127.0.0.1:{etcd.client_port} HTTP/1.1"]


@pytest.mark.parametrize(
    "proxy", ["10.0.0.3:3128", "http://proxy:3128", "https://10.0.0.3:1", "http://10.0.0.3", "http://u:p@10.0.0.3:1"]
)
def test_what_is_no_proxy_is_told(proxy: str) -> None:
    """An address and a port; a name would be looked up anew for each connection, by whoever answers."""
    with pytest.raises(ValueError, match="an HTTP proxy for etcd is http://ADDRESS:PORT"):
        through(proxy)
    assert through("http://[::1]:3128/")[0] == ("grpc.address_http_proxy", "[::1]:3128")
