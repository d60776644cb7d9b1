"""The page by `shoal dashboard`, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from agent.identity.bundles import bundle_document
from tests.support.identity import Authority
from tests.support.issuer import Issuer
from tests.support.mesh import ROOT, SHOAL, until
from tests.system.test_people_roles import REPLAY, Office

from .conftest import channel


class Dashboard:
    """`shoal dashboard`, as a process."""

    def __init__(self, office: Office, *words: str, **environment: str) -> None:
        command = [*SHOAL, "--etcd", office.mesh.etcd.url, "-o", "json", *words, "dashboard", "--no-open"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(office.home), **environment},
        )
        assert self.process.stdout is not None
        url = json.loads(self.process.stdout.readline())["url"]
        self.browser = httpx.Client(base_url=url.partition("/open/")[0], trust_env=False, timeout=30)
        assert self.browser.get(url).headers["location"] == "/ui/"

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        """By Ctrl-C."""
        self.browser.close()
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        assert "Traceback" not in said, said

    def me(self) -> Any:
        return self.browser.get("/api/v1/me").json()


def test_a_dashboard_by_the_socket(office: Office) -> None:
    """The agent sees who has started it, and etcd writes what he writes; an agent that was killed is found again."""
    with Dashboard(office, "--admin", str(office.agent.socket)) as board:
        me = board.me()
        assert me["who"].endswith(f"(uid {os.geteuid()})") and me["role"] == "operate" and me["may"]["write"]
        assert board.browser.get("/ui/").status_code == 200
        assert board.browser.get("/api/v1/mesh").json()["host"] == "alpha"
        assert board.browser.post(REPLAY).status_code == 404, "as an operator"
        assert channel(board.browser) == "alpha" and channel(board.browser, cookie="a=b") == 403
        place = "/dashboard/policies/retry/pets.production"
        put = board.browser.put(place, json={"text": "attempts: 2", "replaces": 0, "reason": "it fails"})
        assert put.status_code == 200, put.text
        in_force = "/api/v1/policies/retry/pets.production"
        until("in force", lambda: board.browser.get(in_force).json().get("revision") == put.json()["revision"])
        assert board.browser.get(in_force).json()["document"]["reason"] == "it fails"
        gone = board.browser.request("DELETE", place, json={"replaces": put.json()["revision"], "reason": "done"})
        assert gone.status_code == 200, gone.text
        until("gone", lambda: board.browser.get(in_force).status_code == 404)

        office.agent.stop(signal.SIGKILL)
        away = board.browser.get("/api/v1/mesh")
        assert away.status_code == 502 and "no agent answers at" in away.json()["detail"]
        office.agent.start()
        until("back", lambda: board.browser.get("/api/v1/mesh").status_code == 200)


def test_a_dashboard_by_a_login(office: Office, issuer: Issuer, tmp_path: Path) -> None:
    """At another host's agent, by TLS: with the role of who is logged in, and not that of this machine's user. Who
    answers in the agent's place hears nothing."""
    bundle, token = tmp_path / "bundle.json", tmp_path / "token"
    bundle.write_text(office.shoal("ca", "export", home="operator"))
    token.write_text(issuer.token(aud="shoal", groups=["dev"]))
    place = f"https://127.0.0.1:{office.port}"
    named = {"SHOAL_TOKEN_FILE": str(token), "SHOAL_BUNDLE_FILE": str(bundle)}
    with Dashboard(office, "--admin", place, **named) as board:
        until("keys", lambda: board.browser.get("/api/v1/mesh").status_code == 200)
        me = board.me()
        assert (me["who"], me["role"], me["by_way_of"]) == ("person oidc:ann", "view", "oidc")
        refused = board.browser.post(REPLAY)
        assert refused.status_code == 403 and "oidc:ann has the role view" in refused.text
        assert channel(board.browser) == "alpha"
        token.write_text(issuer.token(aud="shoal", groups=["sre"]))
        assert board.browser.post(REPLAY).status_code == 404, "the next request has the next token"
        asked = len(issuer.asked)
        bundle.write_bytes(bundle_document(Authority("other.example", now_s=time.time()).bundle))
        away = board.browser.get("/api/v1/mesh")
        assert away.status_code == 502 and "is not believed, and was asked nothing" in away.json()["detail"]
        token.unlink()
        assert "cannot be read" in board.browser.get("/api/v1/mesh").json()["detail"]
        assert len(issuer.asked) == asked
