"""A login of a browser: what it gives, to whom, and for how long."""

from __future__ import annotations

import json
import re
import ssl
import time
from pathlib import Path

import httpx

from agent.control.admin.login import HELD
from tests.support.issuer import Issuer
from tests.support.mesh import AgentProcess, until
from tests.support.web_pki import DAY_S, certificate, kept, root
from tests.system.test_people_roles import REPLAY, Office, logged

from .conftest import SAME, SECRET, browser, channel, done


def test_a_login_by_a_browser(office: Office, issuer: Issuer) -> None:
    """Before it the page and the way in, and nothing of the mesh; after it what the token's claims give; and out."""
    with browser(office) as ann:
        assert ann.get("/ui/").status_code == 200
        me = ann.get("/api/v1/me").json()
        assert (me["who"], me["role"], me["login"], me["logout"]) == ("", "none", "/ui/login", "")
        assert not any(me["may"].values())
        for path in ("/api/v1/services", "/api/v1/openapi.json", "/state", "/metrics", "/api/v1/me/x", "/uix"):
            assert ann.get(path).status_code == 401, path
        assert ann.get("/ui/../state").status_code == 401
        answer = done(ann, issuer, groups=["dev"])
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/"), answer.text
        (told,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(f"{HELD}=")]
        assert re.search("; HttpOnly", told) and re.search("; Secure", told) and re.search("; SameSite=strict", told)
        assert "; Path=/" in told and "Domain" not in told and "Max-Age" not in told
        me = ann.get("/api/v1/me").json()
        assert (me["who"], me["by_way_of"], me["role"]) == ("person oidc:ann", "oidc", "view")
        assert (me["login"], me["logout"]) == ("", "/ui/logout")
        assert ann.get("/api/v1/services").status_code == 200
        refused = ann.post(REPLAY, headers=SAME)
        assert refused.status_code == 403 and "oidc:ann has the role view" in refused.text
        assert ann.post("/ui/logout", headers={"origin": "https://evil.example"}).status_code == 403
        assert ann.post("/ui/logout", headers=SAME).status_code == 204
        assert ann.get("/api/v1/services").status_code == 401 and HELD not in ann.cookies
    with browser(office) as sue:
        assert done(sue, issuer, groups=["sre"], sub="sue").status_code == 303
        assert sue.post(REPLAY, headers=SAME).status_code == 404, "there is no such event"
    secret = next(fields for path, fields in issuer.asked if path == "/token")
    assert secret["authorization"].startswith("Basic ") and "client_secret" not in secret["posted"]
    assert SECRET not in logged(office.agent) and "eyJ" not in logged(office.agent)


def test_browsers_are_shown_what_they_believe(office: Office) -> None:
    """By the name that it is for, and the next one when that is there; by an address it is the agent's own."""
    shown = office.mesh.folder / "web.pem"

    def chain(host: str) -> str:
        context = ssl.create_default_context(cadata=root())
        try:
            return str(httpx.get(f"https://{host}:{office.port}/ui/", verify=context, trust_env=False).status_code)
        except httpx.ConnectError as error:
            return str(error)

    assert chain("localhost") == "200"
    assert "verify failed" in chain("127.0.0.1")
    try:
        kept(shown, certificate("localhost", above="another root"))
        until("the next one", lambda: "verify failed" in chain("localhost"))
        kept(shown, certificate("localhost"))
        until("the one before", lambda: chain("localhost") == "200")
        kept(shown, b"garbage")
        assert chain("localhost") == "200", "what was shown before"
        until("told", lambda: "the certificate for browsers cannot be used" in logged(office.agent))
    finally:
        kept(shown, certificate("localhost"))


def test_the_end_of_what_browsers_are_shown_is_watched(office: Office) -> None:
    """By the agent, with all else that it finds: nobody has to have connected."""
    path = office.mesh.folder / "web.pem"

    def told() -> list[str]:
        items = json.loads(office.agent.text("/api/v1/findings"))["items"]
        return [each["what"] for each in items if each["id"] == "people-certificate"]

    assert told() == []
    before = path.read_bytes()
    kept(path, certificate("localhost", since_s=-10 * DAY_S, until_s=DAY_S))
    (what,) = told()
    assert str(path) in what and "ends in 24 hours" in what
    kept(path, before)
    assert told() == []


def test_other_sites_do_nothing_with_a_login(ann: httpx.Client) -> None:
    """Even where a browser would have the cookie sent."""
    own = str(ann.base_url).rstrip("/")
    for more in ({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": own.replace("https", "http")}):
        assert ann.get("/api/v1/services", headers=more).status_code == 403
        assert ann.post(REPLAY, headers=more).status_code == 403
    for site in ("cross-site", "same-site", "none"):
        assert ann.get("/api/v1/services", headers={"sec-fetch-site": site}).status_code == 403
    assert ann.get("/api/v1/services", headers={"host": "rebound.example"}).status_code == 403
    assert ann.get("/api/v1/services", headers={"host": "mesh.corp.example:1"}).status_code == 200
    assert ann.get("/api/v1/services", headers={"origin": own, **SAME}).status_code == 200


def test_a_login_opens_a_channel_for_its_page(office: Office, ann: httpx.Client) -> None:
    """And for no other page, nor without it."""
    assert channel(ann) == "alpha"
    for more in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"cookie": "a=b"},
        {"cookie": f"{HELD}=x.y.z"},
    ):
        assert channel(ann, **more) == 403, more
    assert channel(ann, **{"sec-fetch-site": "cross-site"}) == 403


def test_who_shows_two_is_nobody(office: Office, issuer: Issuer, ann: httpx.Client, tmp_path: Path) -> None:
    """A token beside a login, two logins, a certificate beside one: and the page says why, and lets him out."""
    bearer = {"authorization": f"Bearer {issuer.token(aud='shoal', groups=['sre'])}"}
    assert ann.get("/api/v1/services", headers=bearer).status_code == 401
    cookie = f"{HELD}={ann.cookies[HELD]}"
    for twice in (f"{cookie}; {cookie}", f"{cookie}; {HELD}=x", f"{HELD}=; {cookie}"):
        with browser(office) as other:
            assert other.get("/api/v1/services", headers={"cookie": twice}).status_code == 401
    with browser(office, certificate=office.person("ada", tmp_path)) as ada:
        until("ada", lambda: ada.get("/api/v1/services").status_code == 200)
        assert ada.get("/api/v1/services", headers={"cookie": cookie}).status_code == 403
        me = ada.get("/api/v1/me", headers={"cookie": cookie}).json()
        assert me["role"] == "none" and "said twice" in me["write"] and me["logout"] == "/ui/logout"
        assert ada.post("/ui/logout", headers={"cookie": cookie, **SAME}).status_code == 204


def test_a_login_ends_with_its_token(office: Office, issuer: Issuer) -> None:
    """At the next request; what was made up or changed never counts."""
    for token in (
        issuer.token(aud="shoal", groups=["sre"], exp=time.time() - 60),
        issuer.token(aud="other", groups=["sre"]),
        issuer.token(aud="shoal", groups=["sre"])[:-4] + "AAAA",
        "a.b.c",
        "",
        "x" * 3800,
    ):
        with browser(office) as other:
            answer = other.get("/api/v1/services", headers={"cookie": f"{HELD}={token}"})
            assert answer.status_code == 401, token
            assert other.get("/api/v1/me", headers={"cookie": f"{HELD}={token}"}).json()["role"] == "none"


def test_on_the_admin_port_nobody_logs_in(office: Office) -> None:
    """It has no TLS, and asks nobody who he is."""
    agent: AgentProcess = office.agent
    answer = httpx.get(f"http://{agent.address}:{agent.admin}/ui/login", trust_env=False)
    assert answer.status_code == 404 and "people.listen" in answer.text
    me = json.loads(agent.text("/api/v1/me"))
    assert (me["role"], me["login"], me["logout"]) == ("look", "", "")
