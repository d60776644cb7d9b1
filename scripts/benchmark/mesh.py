"""What is put into etcd for a measurement: instances and policies, as an operator would put them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import trio

from registry.etcd.store import MAX_OPERATIONS, EtcdSettings, EtcdStore
from registry.keys import Keys
from registry.store import Delete, Put
from scripts.benchmark import traffic
from scripts.benchmark.upstream import Upstream

Puts = dict[str, bytes]


def pets_and_films(keys: Keys, upstream: Upstream) -> Puts:
    """The job that every peer has: see peers.py."""
    puts = {}
    for version, ports in (("v1", upstream.v1), ("v2", upstream.v2)):
        for port in ports:
            puts[keys.instance(traffic.HOST, f"pets-{port}")] = instance(port, version)
    puts[keys.instance(traffic.STREAM_HOST, "films-1")] = instance(upstream.flood)
    for kind, document in pets_policies().items():
        puts[keys.policy(kind, traffic.HOST)] = as_json(document)
    puts[keys.policy("timeout", traffic.STREAM_HOST)] = as_json({"request": "10m"})
    return puts


def pets_policies() -> dict[str, dict[str, Any]]:
    """Rules and a weighted split, the balancing, the limits and the retry of `pets.production`."""
    split = [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]
    return {
        "route": {
            "rules": [
                {"name": "admin", "match": {"path": {"prefix": "/pets/admin"}}, "split": [{"version": "v2"}]},
                {
                    "name": "guinea-pigs",
                    "match": {"headers": {"x-user-group": "guinea-pigs"}},
                    "split": [{"version": "v2"}],
                },
                {"name": "everybody", "match": {"path": {"prefix": "/"}}, "split": split},
            ]
        },
        "balance": {"algorithm": "least-request"},
        "timeout": {"connect": "1s", "request": "15s", "idle": "5m"},
        "retry": {"attempts": 2, "on": ["connect-failure", "reset", "gateway-error"], "budget": {"ratio": 0.2}},
    }


def crowd(keys: Keys, services: int, instances_each: int) -> Puts:
    """Many services that nobody asks for, each with its instances and one policy."""
    puts = {}
    for s in range(services):
        name = f"crowd-{s}.production"
        for i in range(instances_each):
            address = f"127.{1 + i}.{s // 250}.{1 + s % 250}"
            puts[keys.instance(name, f"crowd-{s}-{i}")] = instance(9000, "v1", address)
        puts[keys.policy("timeout", name)] = as_json({"request": "5s"})
    return puts


def instance(port: int, version: str = "", address: str = "127.0.0.1") -> bytes:
    """An instance record, as put by hand."""
    return as_json({"address": address, "port": port, "version": version})


def as_json(document: Mapping[str, Any]) -> bytes:
    """As `etcdctl put` would bring it."""
    return json.dumps(document).encode()


def put_all(url: str, puts: Puts) -> None:
    """Put everything, in as few transactions as etcd allows."""

    async def put() -> None:
        store = EtcdStore(EtcdSettings(endpoints=(url,)))
        try:
            for batch in _batches(puts):
                await store.transact([], batch)
        finally:
            await store.aclose()

    trio.run(put)


def change_all(url: str, changes: Mapping[str, bytes | None]) -> int:
    """Put, or delete what is None, in one transaction; returns its revision."""

    async def change() -> int:
        store = EtcdStore(EtcdSettings(endpoints=(url,)))
        try:
            operations = [Delete(key) if value is None else Put(key, value) for key, value in changes.items()]
            return (await store.transact([], operations)).revision
        finally:
            await store.aclose()

    return trio.run(change)


def _batches(puts: Puts) -> Iterator[list[Put]]:
    left = iter(Put(key, value) for key, value in puts.items())
    while batch := list(islice(left, MAX_OPERATIONS)):
        yield batch
