"""Advice as Kubernetes reads it: discovery, values by label, and what is wrong in Kubernetes' own form."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.routing import Route

from agent.control.admin.external_metrics import METRIC, VERSION, ExternalMetrics
from registry.keys import Keys
from registry.records import Advised, encode
from registry.store import Unavailable
from tests.support.memory import MemoryStore

KEYS = Keys()
VALUES = f"/apis/{VERSION}/namespaces/default/{METRIC}"


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    memory = MemoryStore()
    for service, replicas in (("auth", 5), ("auth.staging", 2)):
        told = Advised(replicas=replicas, at="2026-03-01T12:00:00.123Z")
        await memory.put(KEYS.advice(service), encode(told))
    await memory.put(KEYS.advice("broken"), b"{}")
    yield memory
    await memory.aclose()


def application(store: MemoryStore) -> Starlette:
    doors = ExternalMetrics(store, KEYS).doors()
    return Starlette(routes=[Route(door.path, door.handler, methods=[door.method]) for door in doors])


async def get(store: MemoryStore, path: str, status: int = 200) -> Any:
    transport = httpx.ASGITransport(application(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        told = await client.get(path)
    assert told.status_code == status, told.text
    return told.json()


async def test_values_by_label(store: MemoryStore) -> None:
    """One service, or all; nothing that is no advice."""
    one = await get(store, f"{VALUES}?labelSelector=service%3Dauth")
    item = {
        "metricName": METRIC,
        "metricLabels": {"service": "auth"},
        "timestamp": "2026-03-01T12:00:00Z",
        "value": "5",
    }
    assert one == {"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}, "items": [item]}
    every = (await get(store, VALUES))["items"]
    assert [each["metricLabels"]["service"] for each in every] == ["auth", "auth.staging"]
    assert (await get(store, f"{VALUES}?labelSelector=service%3D%3Dnone"))["items"] == []


async def test_what_there_is_can_be_discovered(store: MemoryStore) -> None:
    """Group, version and metric."""
    groups = await get(store, "/apis")
    assert groups["groups"][0]["preferredVersion"]["groupVersion"] == VERSION
    assert (await get(store, "/apis/external.metrics.k8s.io"))["kind"] == "APIGroup"
    assert (await get(store, f"/apis/{VERSION}"))["resources"][0]["name"] == METRIC


async def test_what_is_wrong_is_said_as_kubernetes_says_it(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Status, with what would be right."""
    wrong = await get(store, f"{VALUES}?labelSelector=app%3Dauth", 400)
    assert wrong["kind"] == "Status" and "write service=pets.production" in wrong["message"]
    await get(store, f"{VALUES}?labelSelector=service%3D-a-", 400)
    assert (await get(store, VALUES.replace(METRIC, "other"), 404))["reason"] == "NotFound"

    async def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("etcd is away")

    monkeypatch.setattr(store, "range", away)
    assert (await get(store, VALUES, 503))["reason"] == "ServiceUnavailable"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl (Debian: kubernetes-client)")
async def test_kubectl_reads_it(store: MemoryStore) -> None:
    """The real client."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        (place,) = await nursery.start(partial(serve, application(store), config))  # type: ignore[arg-type]
        command = ["kubectl", "--server", place, "get", "--raw", f"{VALUES}?labelSelector=service%3Dauth"]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        nursery.cancel_scope.cancel()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"][0]["value"] == "5"
