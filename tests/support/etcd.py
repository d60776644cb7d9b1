"""A real etcd for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry.etcd.server import EtcdProcess, free_port
from registry.etcd.store import EtcdSettings, EtcdStore
from registry.etcd.stubs import load


@contextmanager
def running_etcd(folder: Path, **more: object) -> Iterator[EtcdProcess]:
    """One member, gone when the block is."""
    etcd = EtcdProcess(folder, **more)  # type: ignore[arg-type]
    etcd.start()
    try:
        yield etcd
    finally:
        etcd.stop()


async def leader_of(members: list[EtcdProcess]) -> EtcdProcess:
    """The member that leads now."""
    rpc, _ = load()
    for member in members:
        store = EtcdStore(EtcdSettings(endpoints=(member.url,)))
        status = await store._call("Maintenance", "Status", rpc.StatusRequest(), 5)
        await store.aclose()
        if status.leader == status.header.member_id:
            return member
    raise AssertionError("no leader")


def cluster_of(size: int, folder: Path, arguments: Sequence[str] = ()) -> list[EtcdProcess]:
    """Members of one cluster, not started yet. Start all with `wait=False`, then wait."""
    ports = [free_port() for _ in range(size)]
    initial = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(ports))
    return [
        EtcdProcess(folder / f"m{n}", peer_port=port, name=f"m{n}", cluster=initial, arguments=arguments)
        for n, port in enumerate(ports)
    ]
