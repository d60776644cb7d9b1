"""A real issuer over TLS, and agents that fetch its keys: turned under load, withdrawn, away, and back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.findings.of_agent import of_agent
from tests.support.issuer import WELL_KNOWN, Issuer
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.web_pki import certificate, root, server_context

PETS = "pets.production"


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    found = Issuer(server_context(tmp_path, certificate("localhost")))
    found.turn("one")
    yield found
    found.close()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running_mesh(tmp_path / "mesh") as mesh:
        yield mesh


def agent(mesh: Mesh, host: str = "alpha", address: str = "127.0.0.1") -> AgentProcess:
    roots = mesh.folder / "issuers.pem"
    roots.write_text(root())
    local = f'[authn]\nallow = ["localhost"]\nca_file = "{roots}"\n'
    return mesh.agent(host, address, local=local, extra="workers = 2")


def status(agent: AgentProcess, token: str) -> int:
    return agent.ask(PETS, Authorization=f"Bearer {token}").status


def test_keys_turn_under_load_and_outlive_their_issuer(mesh: Mesh, issuer: Issuer) -> None:
    """The new key counts within a moment of the first token that needs it, the old one no more from then on, and no
    request by a key that is published fails; a restart with etcd and the issuer away verifies as before."""
    found = agent(mesh)
    mesh.instance(found)
    mesh.put(f"policies/authn/{PETS}", {"providers": [issuer.provider(discover=True)]})
    first = issuer.token(kid="one")
    until("the keys are here", lambda: status(found, first) == 200)
    assert [path for path, _ in issuer.asked][:2] == [WELL_KNOWN, "/jwks"]
    assert status(found, issuer.token(aud="shop")) == 401 and found.ask(PETS).status == 401
    (known,) = found.state()["issuers"]
    assert known["source"] == f"discover {issuer.name}" and known["kids"] == ["one"] and known["failing_s"] is None

    failed: list[int] = []
    over = threading.Event()

    def load() -> None:
        token = issuer.token(kid="one")
        while not over.is_set():
            got = status(found, token)
            if got != 200:
                failed.append(got)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(30.0 - 1)  # the look before has to be 30 s old for a token to bring another
        issuer.turn("two")
        second = issuer.token(kid="two")
        until("the new key counts", lambda: status(found, second) == 200)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == [] and status(found, first) == 200

    issuer.turn("three", withdraw=True)
    third = issuer.token(kid="three")
    until("the old keys are withdrawn", lambda: status(found, third) == 200)
    assert status(found, first) == 401 and status(found, second) == 401

    issuer.close()
    mesh.etcd.stop()
    found.stop()
    found.start()
    until("it serves by what it knew", lambda: status(found, third) == 200)
    assert status(found, first) == 401
    (known,) = found.state()["issuers"]
    assert known["keys"] == 1 and known["age_s"] > 0
    until("it says what is wrong", lambda: "ConnectError" in found.state()["issuers"][0]["reason"])

    found.stop()
    (shelf,) = (found.state_dir / "issuers").glob("*.json")
    shelf.write_text(json.dumps({**json.loads(shelf.read_text()), "fetched_at": time.time() - 2 * 86_400}))
    found.start()
    until("nobody believes it for two days", lambda: status(found, third) == 503)
    (known,) = found.state()["issuers"]
    assert known["ending"] and known["left_s"] == 0
    told = " ".join(each.what for each in of_agent(found.state()))
    assert "its keys are 2 days old; max_age is over, and its tokens are answered with 503" in told


def test_an_issuer_that_lies_changes_nothing(mesh: Mesh, issuer: Issuer) -> None:
    """And one whose keys were never got refuses with 503, where whoever operates can see why."""
    found = agent(mesh)
    mesh.instance(found)
    issuer.behave = lambda path: (302, {"location": "http://169.254.169.254/"}, b"")
    mesh.put(f"policies/authn/{PETS}", {"providers": [issuer.provider()]})
    until("it was asked", lambda: issuer.asked)
    answer = found.ask(PETS, Authorization=f"Bearer {issuer.token()}")
    assert answer.status == 503 and answer.headers["x-shoal-policy"] == "authn"
    until("it says why", lambda: "redirects are not followed" in found.state()["issuers"][0]["reason"])
    text = mesh.shoal("--admin", f"http://{found.address}:{found.admin}", "check", check=False).stdout
    assert issuer.jwks_url in text and "redirects are not followed" in text
    assert "shoal_issuer_failing 1" in found.text("/metrics")
    issuer.behave = lambda path: None
    until("they are here", lambda: status(found, issuer.token()) == 200)
    assert "shoal_issuer_failing 0" in found.text("/metrics")
