"""etcd as this agent reaches it: who we are there, which address we have towards it, and one of our own for `--dev`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
import trio

from agent.control.host.port_holders import holders
from agent.control.host.sockets import is_taken
from agent.process.own_files import set_aside
from agent.settings.address import parse_listen
from agent.settings.document import Etcd, Settings
from agent.settings.file import SettingsError
from policies.language.duration import seconds
from registry.etcd.releases import known_faults
from registry.etcd.server import EtcdEnded, EtcdProcess, NoEtcd, find_binary
from registry.etcd.store import EtcdSettings, EtcdStore

USUAL: Final = "127.0.0.1:2379"
"""Where commands look for etcd."""
log = structlog.get_logger()


def store_settings(settings: Settings) -> EtcdSettings:
    etcd = settings.etcd
    password = ""
    if etcd.password_file:
        try:
            password = Path(etcd.password_file).read_text().strip()
        except OSError as error:
            raise SettingsError(f"etcd.password_file: {etcd.password_file}: {error.strerror}") from None
    return EtcdSettings(
        endpoints=etcd.endpoints,
        ca=etcd.ca,
        cert=etcd.cert,
        key=etcd.key,
        user=etcd.user,
        password=password,
        proxy=etcd.proxy,
        timeout_s=seconds(etcd.timeout),
    )


def own_address(settings: Settings) -> str:
    """The address that this host has towards etcd: what other hosts can most likely reach."""
    parts = urlsplit(settings.etcd.endpoints[0])
    try:
        family, _, _, _, target = socket.getaddrinfo(parts.hostname, parts.port or 2379, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(target)  # UDP: chooses a route, and sends nothing
            return str(sock.getsockname()[0])
    except OSError:
        return "127.0.0.1"


async def _started(etcd: EtcdProcess) -> None:
    """Raises SystemExit when we are told to stop meanwhile: nobody else would end the child."""
    told = False
    failed: list[Exception] = []

    async def start(scope: trio.CancelScope) -> None:
        try:
            await trio.to_thread.run_sync(etcd.start)
        except Exception as error:
            failed.append(error)
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, nursery.cancel_scope)
            async for _ in signals:
                told = True
    if told:
        raise SystemExit(0)
    if failed:
        raise failed[0]


async def _started_or_anew(etcd: EtcdProcess) -> None:
    """Where it gives up on what is in its directory, start with another one, and set that aside. When that is no help,
    all is as it was. Raises NoEtcd and OSError."""
    had_data = await trio.Path(etcd.data_dir).exists()
    try:
        await _started(etcd)
        return
    except (EtcdEnded, FileExistsError, NotADirectoryError) as error:
        lines = str(error).strip().splitlines()
        aside = set_aside(etcd.data_dir, f"no etcd starts with it: {lines[-1][:300]}") if had_data else None
        if aside is None:
            raise
    try:
        await _started(etcd)
    except (NoEtcd, OSError):
        shutil.rmtree(etcd.data_dir, ignore_errors=True)
        os.rename(aside, etcd.data_dir)
        raise


async def _tell(settings: Settings, *, taken: bool) -> None:
    """What runs now, and what to know of it."""
    (url,) = settings.etcd.endpoints
    async with EtcdStore.open(store_settings(settings)) as store:
        version = await store.version()
    log.info("an etcd for development is running", url=url, version=version, program=find_binary())
    if faults := known_faults(version):
        log.warning("this etcd is for trying things out only; put a newer one on PATH", reason="; ".join(faults))
    if taken:
        who = ", ".join(map(str, holders(parse_listen(USUAL))))
        log.warning(f"somebody else answers at {USUAL}; tell commands where this etcd is", by=who, SHOAL_ETCD=url)


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Settings]:
    """`--dev`: an etcd of our own, in the state directory."""
    port = 2379 if not is_taken(parse_listen(USUAL)) else 0
    etcd = EtcdProcess(settings.state_path / "dev-etcd", client_port=port)
    try:
        await _started_or_anew(etcd)
        ours = msgspec.structs.replace(settings, etcd=Etcd(endpoints=(etcd.url,), timeout=settings.etcd.timeout))
        await _tell(ours, taken=not port)
        yield ours
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(etcd.stop)
