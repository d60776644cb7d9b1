"""Agents whose page has doors. One believes a provider that lies as a test chooses, one a provider of PyPI."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import urlopen

import httpx
import pytest
import trio
import trio_websocket

from agent.control.admin.login import TRIED
from registry.etcd.server import free_port
from tests.support.issuer import WELL_KNOWN, Issuer
from tests.support.mesh import AgentProcess, Mesh, running_mesh, until
from tests.support.web_pki import certificate, kept, root, server_context
from tests.system.test_identity import Operator, held, put
from tests.system.test_people_roles import Office

SECRET = "s3cr3t:/ä"
SAME = {"sec-fetch-site": "same-origin"}
LED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


class Doors(Office):
    """With a second agent, of another provider."""

    second: AgentProcess
    second_port: int


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    found = Issuer(server_context(tmp_path_factory.mktemp("issuer"), certificate("localhost")))
    found.turn("one")
    found.secret = SECRET
    yield found
    found.close()


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """oidc-provider-mock, as a process; by an address, which to a browser is another site than localhost."""
    port = free_port()
    user = json.dumps({"sub": "ann", "groups": ["sre"]})
    words = ["-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true", "--user-claims", user]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until("provider", lambda: urlopen(f"http://127.0.0.1:{port}{WELL_KNOWN}", timeout=5).status == 200)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("office")) as running:
        yield running


@pytest.fixture(scope="module")
def office(mesh: Mesh, issuer: Issuer, provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Its agent believes the one that lies; a second one believes the other."""
    folder = mesh.folder
    (folder / "issuers.pem").write_text(root())
    (folder / "secret").write_text(f"{SECRET}\n")
    kept(folder / "web.pem", certificate("localhost"))

    def settings(name: str, port: int, algorithms: str, more: str) -> str:
        return (
            f'[people]\nlisten = "127.0.0.1:{port}"\nnames = ["mesh.corp.example"]\ncertificate = "{folder}/web.pem"\n'
            f'[people.oidc]\nissuer = "{name}"\n'
            f'audiences = ["shoal", "lamps"]\nalgorithms = ["{algorithms}"]\nview = ["dev"]\noperate = ["sre"]\n'
            f'client_id = "shoal"\nredirect = "https://localhost:{port}"\n{more}'
            f'[authn]\nallow = ["localhost", "127.0.0.1/32"]\nca_file = "{folder}/issuers.pem"\n'
        )

    port, other = free_port(), free_port()
    agent = mesh.agent(local=settings(issuer.name, port, "ES256", f'client_secret_file = "{folder}/secret"\n'))
    more = f'client_secret_file = "{folder}/secret"\nscopes = ["openid", "profile"]\n'
    second = mesh.agent("beta", "127.0.0.2", local=settings(provider, other, "RS256", more))
    operator = Operator(mesh)
    for host in ("alpha", second.host):
        put(mesh, "hosts", host)
    operator.make_issuer("alpha")
    until("certificates", lambda: held(agent) == {"agent", "issuer"} and "agent" in held(second))
    office = Doors(mesh, agent, operator, tmp_path_factory.mktemp("homes"))
    office.port = port
    office.second, office.second_port = second, other
    yield office


def browser(office: Office, port: int = 0, certificate: Path | None = None) -> httpx.Client:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    return httpx.Client(
        base_url=f"https://localhost:{port or office.port}", verify=context, trust_env=False, timeout=30
    )


def begun(browser: httpx.Client) -> tuple[str, dict[str, str]]:
    """Where a browser is sent, and what that asks for."""
    answer = browser.get("/ui/login")
    assert answer.status_code == 303, answer.text
    place = answer.headers["location"]
    return place, dict(parse_qsl(urlsplit(place).query))


def tried(browser: httpx.Client) -> list[str]:
    """Of logins that are under way there."""
    return [value for name, value in browser.cookies.items() if name in TRIED]


def done(browser: httpx.Client, issuer: Issuer, **claims: Any) -> httpx.Response:
    """A whole login."""
    place, asked = begun(browser)
    code = issuer.agree(place, **claims)
    led = {**LED, "sec-fetch-site": "cross-site"}
    return browser.get("/ui/login/done", params={"code": code, "state": asked["state"]}, headers=led)


def channel(browser: httpx.Client, **more: str) -> Any:
    """What a page that watches the mesh hears first; the status where it is refused."""
    base = str(browser.base_url).rstrip("/")
    parts = urlsplit(base)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = [(name.encode(), text.encode()) for name, text in {"cookie": cookie, "origin": base, **more}.items()]

    async def heard() -> Any:
        found: Any = None
        stream: Any = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
        if parts.scheme == "https":
            stream = trio.SSLStream(stream, ssl.create_default_context(cadata=root()), server_hostname=parts.hostname)
        try:
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    opened = await trio_websocket.wrap_client_stream(
                        nursery, stream, parts.netloc, "/api/v1/live", extra_headers=headers
                    )
                    await opened.send_message('{"watch": "m", "path": "/mesh"}')
                    while "watch" not in (said := json.loads(await opened.get_message())):
                        pass
                    found = said["body"]["host"]
                    nursery.cancel_scope.cancel()
        except* trio_websocket.ConnectionRejected as rejected:
            (first,) = rejected.exceptions
            found = getattr(first, "status_code", None)
        finally:
            await trio.aclose_forcefully(stream)
        return found

    return trio.run(heard)


@pytest.fixture
def ann(office: Office, issuer: Issuer) -> Iterator[httpx.Client]:
    """Logged in, to view."""
    with browser(office) as found:
        assert done(found, issuer, groups=["dev"]).headers["location"] == "/ui/"
        yield found
