"""Users of one host and their agent: each does what the settings say, whatever else the host lets them."""

from __future__ import annotations

import base64
import http.client
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.etcd.server import free_port
from tests.support.local import Told, ask
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.users import ALICE, BOB, NOBODY, as_user, needs_root

pytestmark = needs_root
RIGHTS = (
    f'operate = ["@77"]\nmax_instances = 3\n[local.services]\n"*.staging" = ["{ALICE}", "{BOB}"]\nmail = ["{BOB}"]\n'
)
ONE = "/api/v1/instances/pets.staging/a"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Mesh, AgentProcess]]:
    with running_mesh(tmp_path) as mesh:
        yield mesh, mesh.agent(local=RIGHTS)


def asks(
    uid: int, agent: AgentProcess, method: str, target: str, value: Any = None, groups: tuple[int, ...] = ()
) -> Told:
    return as_user(uid, ask, str(agent.socket), method, target, value, groups=groups)


def test_a_user_is_the_services_that_it_may_be(agent: tuple[Mesh, AgentProcess]) -> None:
    """And no other: neither payments nor what another user has registered; nor does it get anybody's token."""
    mesh, host = agent
    port, _ = mesh.service()
    body = {"service": "pets.staging", "id": "a", "port": port}
    first = asks(ALICE, host, "POST", "/api/v1/instances", body)
    assert first.status == 200 and first.json["token"]
    for uid, wanted in (
        (NOBODY, body),
        (ALICE, {**body, "service": "payments.production"}),
        (ALICE, {**body, "service": "mail"}),
        (BOB, body),
    ):
        refused = asks(uid, host, "POST", "/api/v1/instances", wanted)
        assert refused.status == 403, refused.body
        assert first.json["token"] not in refused.body.decode()
    assert "token" not in asks(ALICE, host, "POST", "/api/v1/instances", body).json
    second = asks(BOB, host, "POST", "/api/v1/instances", {**body, "id": "b"})
    assert second.json["token"] not in ("", first.json["token"])


def test_nobody_takes_out_or_speaks_for_anothers(agent: tuple[Mesh, AgentProcess]) -> None:
    """Not even who may be the same service; its own user may, and so may who operates."""
    mesh, host = agent
    port, _ = mesh.service()
    body = {"service": "pets.staging", "id": "a", "port": port, "health": {"ttl": "1h"}}
    assert asks(ALICE, host, "POST", "/api/v1/instances", body).status == 200
    for uid in (BOB, NOBODY):
        for method, target, value in (
            ("DELETE", ONE, None),
            ("PUT", f"{ONE}/health", {"healthy": True}),
            ("POST", f"{ONE}/token", {}),
        ):
            assert asks(uid, host, method, target, value).status == 403
    assert asks(ALICE, host, "PUT", f"{ONE}/health", {"healthy": True}).status == 200
    until("healthy", lambda: mesh.healthy(host, "pets.staging", port))
    assert asks(NOBODY, host, "DELETE", ONE, groups=(77,)).status == 200
    until("gone", lambda: not host.state()["services"]["pets.staging"]["endpoints"])


def test_what_operates_is_not_for_everybody(agent: tuple[Mesh, AgentProcess]) -> None:
    """Webhooks, events, and what services answered; the refusal says which setting says who may."""
    _, host = agent
    for method, target in (
        ("POST", "/api/v1/hooks/test"),
        ("POST", "/api/v1/events/1/replay"),
        ("GET", "/api/v1/shadow/pets"),
    ):
        refused = asks(ALICE, host, method, target, {})
        assert refused.status == 403 and "local.operate" in refused.json["detail"]
        assert asks(ALICE, host, method, target, {}, groups=(77,)).status in (400, 404)
    for target in ("/healthz", "/readyz", "/metrics", "/state", "/api/v1/network", "/api/v1/mesh"):
        assert asks(NOBODY, host, "GET", target).status == 200


def test_a_user_registers_so_many(agent: tuple[Mesh, AgentProcess]) -> None:
    """One user's programs do not fill the mesh; another's number is its own."""
    _, host = agent
    bodies = [{"service": f"s{number}.staging", "port": free_port(), "health": {"ttl": "1h"}} for number in range(4)]
    answers = [asks(ALICE, host, "POST", "/api/v1/instances", body).status for body in bodies]
    assert answers == [200, 200, 200, 429]
    assert asks(BOB, host, "POST", "/api/v1/instances", bodies[3]).status == 200


def test_tokens_and_owners_survive_reloads_and_kills(agent: tuple[Mesh, AgentProcess]) -> None:
    """A program goes on calling in its own name, and its instance stays its user's."""
    mesh, host = agent
    port, _ = mesh.service()
    body = {"service": "pets.staging", "id": "a", "port": port}
    token = asks(ALICE, host, "POST", "/api/v1/instances", body).json["token"]

    def calls() -> bool:
        credentials = base64.b64encode(f"pets.staging:{token}".encode()).decode()
        connection = http.client.HTTPConnection(host.address, host.outbound, timeout=10)
        connection.request("GET", "/", headers={"Host": "pets.staging", "Proxy-Authorization": f"Basic {credentials}"})
        status = connection.getresponse().status
        connection.close()
        return status == 200

    until("called in its own name", calls)
    workers = {worker["pid"] for worker in host.state()["workers"]}
    host.tell(signal.SIGHUP)
    until("reloaded", lambda: host.ready() and not workers & {worker["pid"] for worker in host.state()["workers"]})
    until("called after the reload", calls)
    host.stop(signal.SIGKILL)
    host.start()
    until("called after a kill", calls)
    assert asks(BOB, host, "DELETE", ONE).status == 403
    assert asks(ALICE, host, "DELETE", ONE).status == 200
