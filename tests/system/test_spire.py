"""Agents whose certificates SPIFFE's Workload API gives: a small server of it, and a real SPIRE where there is one."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from agent.identity.spiffe import parse_id
from tests.support.identity import TRUST_DOMAIN, Authority
from tests.support.mesh import AgentProcess, Mesh, Traffic, running_mesh, until
from tests.support.real_spire import PROGRAMS, RealSpire
from tests.support.workload import WorkloadApi, response

PETS = "pets.production"
IDS = [f"spiffe://{TRUST_DOMAIN}/{path}" for path in ("agent/alpha", "agent/beta", f"svc/{PETS}")]


class Spire(Protocol):
    """What gives certificates."""

    def give(self, *identities: str) -> None:
        """These, and no others."""
        ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Small:
    """The small server."""

    def __init__(self, path: Path) -> None:
        self._api = WorkloadApi(path)
        self._authority = Authority(now_s=time.time())
        self.start = self._api.start
        self.stop = self._api.stop

    def give(self, *identities: str) -> None:
        """Certificates that begin now."""
        ids = [parse_id(each) for each in identities]
        self._api.give(response(self._authority, *ids, now_s=time.time(), lifetime_s=3600.0))


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path) as running:
        yield running


@pytest.fixture(params=["small", "real"])
def spire(request: pytest.FixtureRequest, mesh: Mesh, tmp_path: Path) -> Iterator[Spire]:
    """Away at first."""
    path = mesh.sockets / "spire.sock"
    if request.param == "small":
        yield Small(path)
        return
    if not PROGRAMS:
        pytest.skip("scripts/interop builds SPIRE")
    with ExitStack() as stack:
        real = RealSpire(tmp_path / "spire", path)
        stack.callback(real.close)
        yield real


def beside(mesh: Mesh, host: str, address: str) -> AgentProcess:
    """An agent that asks SPIRE."""
    socket = mesh.sockets / "spire.sock"
    return mesh.agent(host, address, local=f'[identity]\nspiffe_endpoint_socket = "unix://{socket}"\n')


def held(agent: AgentProcess) -> dict[str, str]:
    """What it holds, until when."""
    return {each["name"]: each["ends"] for each in agent.state()["identity"].get("held", [])}


def problems(agent: AgentProcess) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in agent.state()["identity"]["problems"]}


def test_a_mesh_of_spire(mesh: Mesh, spire: Spire) -> None:
    """From nothing to strict; renewals, a reload, and SPIRE away lose no request; what has no entry any more is over;
    and no key is on a disk."""
    alpha, beta = beside(mesh, "alpha", "127.0.0.1"), beside(mesh, "beta", "127.0.0.2")
    until("it is told", lambda: "unavailable" in problems(beta).get("agent", ""))
    mesh.instance(beta)
    assert alpha.ask().status == 200, "in plain text, as without certificates"
    spire.give(*IDS)
    spire.start()
    try:
        until("certificates", lambda: set(held(alpha)) >= {"agent"} and set(held(beta)) == {"agent", f"svc/{PETS}"})
        mesh.put("policies/tls/*", {"mtls": "strict"})
        until("strict", lambda: alpha.ask().status == 200 and not problems(beta))
        with Traffic(alpha) as traffic:
            traffic.more(50)
            before = held(beta)
            spire.give(*IDS)
            until("renewed", lambda: held(beta)[f"svc/{PETS}"] > before[f"svc/{PETS}"], patience_s=120)
            traffic.more(50)
            for agent in (beta, alpha):
                workers = agent.state()["workers"]
                agent.tell(signal.SIGHUP)
                until("others", lambda a=agent, w=workers: a.ready() and a.state()["workers"] != w)  # type: ignore[misc]
                traffic.more(50)
            spire.stop()
            until("it is told", lambda: beta.state()["identity"]["workload_error"])
            traffic.more(50)
            beta.tell(signal.SIGHUP)
            until("held after it", lambda: beta.ready() and f"svc/{PETS}" in held(beta))
            traffic.more(50)
            assert traffic.failures == []
        for agent in (alpha, beta):
            for path in agent.state_dir.rglob("*"):
                assert not path.is_file() or b"PRIVATE" not in path.read_bytes(), path
        spire.start()
        until("it is back", lambda: not beta.state()["identity"]["workload_error"])
        spire.give(*IDS[:2])
        until("over", lambda: set(held(beta)) == {"agent"})
        until("refused", lambda: alpha.ask().status == 503)
        assert f"-spiffeID {IDS[2]}" in problems(beta)[f"svc/{PETS}"]
        spire.give(*IDS)
        until("and back", lambda: alpha.ask().status == 200)
    finally:
        spire.stop()
