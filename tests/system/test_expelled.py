"""A stolen host is put out of a mesh whose etcd asks who one is: its user, its lease, and what is suspected to live."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.mesh import AgentProcess, Mesh, until
from tests.system.test_identity import held
from tests.system.test_mesh_rights import HOSTS, ROOT_USER, run, running_mesh_with_roles

PETS = "pets.production"


def started(mesh: Mesh, folder: Path) -> tuple[AgentProcess, AgentProcess]:
    """alpha, which issues, and beta, each as its own user of etcd, with certificates; beta has an instance."""
    alpha, beta = (mesh.agent(host, address, start=False, lease_ttl="3s") for host, address in HOSTS.items())
    for agent in (alpha, beta):
        named = f'[etcd]\nuser = "{agent.host}"\npassword_file = "{folder / agent.host}.password"\n'
        agent.path.write_text(agent.path.read_text().replace("[etcd]\n", named))
    run(mesh.etcd, folder, f"{ROOT_USER} shoal mesh grant alpha --as issuer --password-file alpha.password --apply")
    for agent in (alpha, beta):
        agent.start()
    mesh.instance(beta)
    run(mesh.etcd, folder, f"{ROOT_USER} shoal ca init --issuer alpha\nshoal host add beta -s {PETS}")
    until("certificates", lambda: held(alpha) == {"agent", "issuer"} and held(beta) == {"agent", f"svc/{PETS}"})
    until("an answer", lambda: alpha.ask().status == 200)
    return alpha, beta


def kill(agent: AgentProcess) -> None:
    """The whole agent, at once: nothing is said."""
    process, agent.process = agent.process, None
    assert process is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def suspects(agent: AgentProcess) -> list[dict[str, str]]:
    found: list[dict[str, str]] = agent.state()["suspects"]
    return found


def revoke(mesh: Mesh, folder: Path, host: str) -> subprocess.CompletedProcess[str]:
    return run(mesh.etcd, folder, f"{ROOT_USER} shoal ca revoke host {host} --reason stolen")


def test_what_it_left_is_called_no_more(tmp_path: Path) -> None:
    """Its agent is gone, and its instance answers, whoever it is by now: it is believed until the host is put out."""
    with running_mesh_with_roles(tmp_path) as mesh:
        alpha, beta = started(mesh, tmp_path)
        kill(beta)
        until("it is suspected to live", lambda: suspects(alpha))
        until("and is called", lambda: alpha.ask().status == 200)
        told = revoke(mesh, tmp_path, "beta").stderr
        assert "its user in etcd is gone: beta" in told
        until("it is not called", lambda: not suspects(alpha) and alpha.ask().status != 200)
        beta.start(wait=False)
        until("it cannot write", lambda: "authentication failed" in beta.log.read_text().lower())
        assert "beta" not in alpha.state()["agents"]


def test_one_that_lives_is_gone_at_once(tmp_path: Path) -> None:
    """With its agent, which goes on trying: nothing of it is suspected to live, and etcd takes nothing from it."""
    with running_mesh_with_roles(tmp_path) as mesh:
        alpha, beta = started(mesh, tmp_path)
        told = revoke(mesh, tmp_path, "beta").stderr
        assert "its user in etcd is gone: beta" in told and "and its lease" in told
        until("it is not called", lambda: alpha.ask().status != 200)
        assert suspects(alpha) == []
        until("it cannot write", lambda: "etcd" in beta.log.read_text())
        keys = mesh_keys(mesh, tmp_path)
        assert not [key for key in keys if "/beta/" in key or key.endswith("/beta")], keys


def mesh_keys(mesh: Mesh, folder: Path) -> list[str]:
    """All that stands in etcd but revocations."""
    listed = run(mesh.etcd, folder, f"{ROOT_USER} etcdctl get --prefix --keys-only /shoal/default/").stdout
    return [key for key in listed.split() if key]


def test_who_is_let_in_again_is_suspected_again(tmp_path: Path) -> None:
    """Put out is who belongs to the mesh no more: a host of that name that was added anew is like any other."""
    with running_mesh_with_roles(tmp_path) as mesh:
        alpha, beta = started(mesh, tmp_path)
        revoke(mesh, tmp_path, "beta")
        until("it is not called", lambda: alpha.ask().status != 200)
        kill(beta)
        (tmp_path / "beta.password").unlink()
        run(mesh.etcd, tmp_path, f"{ROOT_USER} shoal host add beta -s {PETS}")
        beta.start()
        until("it is called again", lambda: alpha.ask().status == 200)
        kill(beta)
        until("it is suspected to live", lambda: suspects(alpha))
        until("and is called", lambda: alpha.ask().status == 200)
        assert suspects(alpha)
