"""People who ask an agent over the network with a token of their provider's: a real one, a real agent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.identity.bundles import bundle_document
from registry.etcd.server import free_port
from tests.support.identity import Authority
from tests.support.issuer import Issuer
from tests.support.mesh import ROOT, SHOAL, running_mesh, until
from tests.support.web_pki import certificate, root, server_context
from tests.system.test_identity import Operator, held, put
from tests.system.test_people_roles import REPLAY, Office, asked, connected, logged


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    found = Issuer(server_context(tmp_path_factory.mktemp("issuer"), certificate("localhost")))
    found.turn("one")
    yield found
    found.close()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Office]:
    with running_mesh(tmp_path_factory.mktemp("office")) as mesh:
        port, roots = free_port(), mesh.folder / "issuers.pem"
        roots.write_text(root())
        oidc = (
            f'[people]\nlisten = "127.0.0.1:{port}"\n[people.oidc]\nissuer = "{issuer.name}"\naudiences = ["shoal"]\n'
            f'view = ["dev"]\noperate = ["sre"]\n[authn]\nallow = ["localhost"]\nca_file = "{roots}"\n'
        )
        agent = mesh.agent(local=oidc)
        operator = Operator(mesh)
        put(mesh, "hosts", "alpha")
        operator.make_issuer("alpha")
        until("certificates", lambda: held(agent) == {"agent", "issuer"})
        office = Office(mesh, agent, operator, tmp_path_factory.mktemp("homes"))
        office.port = port
        yield office


def shown(issuer: Issuer, *groups: str, **more: Any) -> str:
    return f"Bearer {issuer.token(**{'aud': 'shoal', 'groups': list(groups), **more})}"


def test_a_token_has_what_its_groups_give(office: Office, issuer: Issuer) -> None:
    """To look, to operate, or nothing; by its own audience only."""
    until("keys", lambda: asked(office, None, Authorization=shown(issuer, "dev"))[0] == 200)
    status, told = asked(office, None, "POST", REPLAY, Authorization=shown(issuer, "dev"))
    assert status == 403 and "oidc:ann has the role view" in told and "[people.oidc] of agent.toml" in told
    assert asked(office, None, "POST", REPLAY, Authorization=shown(issuer, "sre"))[0] == 404
    log = logged(office.agent)
    assert "a person asked for a change" in log and "oidc:ann" in log
    for token in (shown(issuer, "cooks"), shown(issuer, "sre", aud="lamps"), shown(issuer, "sre", iss="https://evil")):
        assert asked(office, None, Authorization=token)[0] == 401
    status, told = asked(office, None)
    assert status == 401 and "shoal login" in told


def test_a_token_that_has_ended_ends_on_an_open_connection(office: Office, issuer: Issuer) -> None:
    """With the next request."""
    until("keys", lambda: asked(office, None, Authorization=shown(issuer, "dev"))[0] == 200)
    connection = connected(office, None)
    token = shown(issuer, "sre", exp=time.time() - 1)
    statuses = []

    def ask() -> bool:
        connection.request("POST", REPLAY, None, {"Host": "alpha", "Authorization": token})
        got = connection.getresponse()
        got.read()
        statuses.append(got.status)
        return bool(got.status == 401)

    until("it has ended", ask)
    assert statuses[0] == 404
    connection.close()


def test_a_certificate_counts_as_before_and_not_with_a_token(office: Office, issuer: Issuer, tmp_path: Path) -> None:
    """Two answers to who asks are none; a bad certificate does not fall back to a token."""
    ada = office.person("ada", tmp_path)
    until("ada", lambda: asked(office, ada)[0] == 200)
    status, told = asked(office, ada, Authorization=shown(issuer, "sre"))
    assert status == 403 and "said twice" in told
    ended = office.person("bob", tmp_path, "operate", now_s=time.time() - 7200, lifetime_s=3600.0)
    with pytest.raises(OSError):
        asked(office, ended, Authorization=shown(issuer, "sre"))


def test_the_command_line_shows_a_token(office: Office, issuer: Issuer, tmp_path: Path) -> None:
    """To an agent that the mesh's bundle vouches for, and to nobody else: who answers in its place hears none."""
    place = f"https://127.0.0.1:{office.port}"
    bundle, token = tmp_path / "bundle.json", tmp_path / "token"
    bundle.write_text(office.shoal("ca", "export", home="operator"))

    def shoal(*words: str) -> subprocess.CompletedProcess[str]:
        more = {"SHOAL_TOKEN_FILE": str(token), "SHOAL_BUNDLE_FILE": str(bundle), "XDG_STATE_HOME": str(tmp_path)}
        command = [*SHOAL, "--admin", place, *words]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **more}, check=False
        )

    token.write_text(issuer.token(aud="shoal", groups=["sre"]) + "\n")
    until("keys", lambda: "no event" in shoal("events", "replay", "none").stderr)
    token.write_text(issuer.token(aud="shoal", groups=["dev"]))
    assert "has the role view" in shoal("events", "replay", "none").stderr
    token.write_text(issuer.token(aud="lamps", groups=["sre"]))
    assert "for another audience" in shoal("events", "replay", "none").stderr
    token.write_text("two words")
    assert "holds no token" in shoal("events", "replay", "none").stderr
    token.write_text(issuer.token(aud="shoal", groups=["sre"]))
    other = Authority("other.example", now_s=time.time())
    bundle.write_bytes(bundle_document(other.bundle))
    assert "is not believed, and was asked nothing" in shoal("events", "replay", "none").stderr
    bundle.write_text("{}")
    assert "SHOAL_BUNDLE_FILE" in shoal("events", "replay", "none").stderr


def test_a_withdrawn_key_ends_its_people(office: Office, issuer: Issuer) -> None:
    """As soon as the agent knows of it; a new one counts then."""
    old = shown(issuer, "dev")
    until("keys", lambda: asked(office, None, Authorization=old)[0] == 200)
    issuer.turn("two", withdraw=True)
    new = shown(issuer, "dev")
    until("the new key", lambda: asked(office, None, Authorization=new)[0] == 200)
    assert asked(office, None, Authorization=old)[0] == 401
