"""How a login ends that was begun: codes, tokens and answers of somebody else, and of none."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from agent.control.admin.login import HELD, MOST_TRIES, TRIED
from tests.support.issuer import Issuer
from tests.system.test_people_roles import Office

from .conftest import LED, SAME, begun, browser, done, tried


def test_a_code_counts_for_the_browser_that_began(office: Office, issuer: Issuer) -> None:
    """Not for another one (login CSRF), not with another state, and not twice."""
    with browser(office) as mallory, browser(office) as victim:
        place, asked = begun(mallory)
        fixed = {"code": issuer.agree(place, groups=["sre"]), "state": asked["state"]}
        for state in (asked["state"], "", "x"):
            answer = victim.get("/ui/login/done", params={**fixed, "state": state})
            assert answer.status_code == 403 and "not begun in this browser" in answer.text
        begun(victim)
        answer = victim.get("/ui/login/done", params=fixed)
        assert answer.status_code == 403 and HELD not in victim.cookies
        assert fixed["code"] in issuer.codes, "nobody asked for its token"

        (kept,) = tried(mallory)
        assert mallory.get("/ui/login/done", params=fixed).status_code == 303
        assert not tried(mallory)
        assert mallory.get("/ui/login/done", params=fixed).status_code == 403
        again = mallory.get("/ui/login/done", params=fixed, headers={"cookie": f"{TRIED[0]}={kept}"})
        assert again.status_code == 403 and "invalid_grant" in again.text

        place, asked = begun(victim)
        stolen = {"code": issuer.agree(place, groups=["sre"]), "state": begun(mallory)[1]["state"]}
        answer = mallory.get("/ui/login/done", params=stolen)
        assert answer.status_code == 403 and "invalid_grant" in answer.text, "PKCE: a code that was seen is of no use"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_disturbs_no_login(office: Office, issuer: Issuer, site: str) -> None:
    """It sends the browser to the end of a login, with whatever state, and to begin others, as often as it likes."""
    led = {**LED, "sec-fetch-site": site}
    with browser(office) as ann:
        place, asked = begun(ann)
        for _ in range(MOST_TRIES + 1):
            for params in ({}, {"state": "x"}, {"state": "x" * 32, "code": "x"}, {"error": "access_denied"}):
                forged = ann.get("/ui/login/done", params=params, headers=led)
                assert forged.status_code == 403 and "set-cookie" not in forged.headers
            more = ann.get("/ui/login", headers=led)
            assert more.status_code == 403 and "href=/ui/login" in more.text and "set-cookie" not in more.headers
        back = {"state": asked["state"], "code": issuer.agree(place, groups=["dev"])}
        assert ann.get("/ui/login/done", params=back, headers=led).headers["location"] == "/ui/"


def test_several_tabs_log_in(office: Office, issuer: Issuer) -> None:
    """Each ends its own, in whatever order; of more than there may be the oldest makes way."""
    with browser(office) as ann:
        tabs = [begun(ann) for _ in range(MOST_TRIES)]
        for place, asked in (tabs.pop(), *tabs):
            back = {"state": asked["state"], "code": issuer.agree(place, groups=["dev"])}
            assert ann.get("/ui/login/done", params=back).status_code == 303
        assert not tried(ann)
        tabs = [begun(ann) for _ in range(MOST_TRIES + 1)]
        assert len(tried(ann)) == MOST_TRIES
        place, asked = tabs.pop()
        back = {"state": asked["state"], "code": issuer.agree(place, groups=["dev"])}
        assert ann.get("/ui/login/done", params=back).status_code == 303
        assert ann.post("/ui/logout", headers=SAME).status_code == 204 and not tried(ann)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"nonce": "another"}, "another login"),
        ({"nonce": None}, "another login"),
        ({"aud": "lamps"}, "not made for shoal"),
        ({"aud": ["shoal", "lamps"]}, "not made for shoal"),
        ({"aud": ["shoal", "lamps"], "azp": "lamps"}, "not made for shoal"),
        ({"azp": "lamps"}, "not made for shoal"),
        ({"aud": "other"}, "audience"),
        ({"iss": "https://evil.example"}, ""),
        ({"exp": 1}, ""),
        ({"groups": ["cooks"]}, "ann has nothing in groups"),
        ({"groups": "sre,dev"}, "ann has nothing in groups"),
        ({"sub": "<script>alert(1)</script>", "groups": []}, "&lt;script&gt;"),
        ({"more": "x" * 4000}, "a cookie has room"),
    ],
)
def test_tokens_that_are_no_login(office: Office, issuer: Issuer, claims: dict[str, Any], said: str) -> None:
    """Said to the person, as text, and nothing is kept."""
    with browser(office) as ann:
        answer = done(ann, issuer, **{"groups": ["dev"], **claims})
        assert answer.status_code in (403, 502) and said in answer.text, answer.text
        assert HELD not in ann.cookies and not tried(ann) and "<script" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_a_provider_or_somebody_in_its_place_says(office: Office, issuer: Issuer) -> None:
    """Its no, another's answer, and what is no answer: as text; nobody is led elsewhere."""
    with browser(office) as ann:
        for params, said in (
            ({"error": "access_denied<b>"}, "access_denied&lt;b&gt;"),
            ({"iss": "https://evil.example", "code": "x"}, "another provider"),
            ({}, "no code"),
            ({"code": "x" * 5000}, "no code"),
            ({"code": "nothing"}, "invalid_grant"),
        ):
            _, asked = begun(ann)
            answer = ann.get("/ui/login/done", params={"state": asked["state"], **params})
            assert answer.status_code in (400, 403) and said in answer.text, answer.text
        place = ann.get("/ui/login?next=https://evil.example&redirect_uri=https://evil.example").headers["location"]
        assert place.startswith(f"{issuer.name}/authorize?") and "evil" not in place
        asked = dict(parse_qsl(urlsplit(place).query))
        assert asked["redirect_uri"] == f"{ann.base_url}".rstrip("/") + "/ui/login/done"
        assert asked["code_challenge_method"] == "S256" and len(asked["nonce"]) >= 32 and len(asked["state"]) >= 32
        params = {"state": asked["state"], "code": issuer.agree(place, groups=["dev"]), "next": "//evil.example"}
        assert ann.get("/ui/login/done", params=params).headers["location"] == "/ui/"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, {}, b"{}"), "it answers 500"),
        ((302, {"location": "https://evil.example"}, b""), "it answers 302"),
        ((200, {}, b"<html>"), "no ID token"),
        ((200, {}, b'{"id_token": 7}'), "no ID token"),
        ((200, {}, b'{"access_token": "x"}'), "no ID token"),
        ((200, {}, b'"' + b"x" * 300_000 + b'"'), "no ID token"),
    ],
)
def test_a_token_endpoint_that_gives_none(office: Office, issuer: Issuer, answer: Any, said: str) -> None:
    """In words, and the next login goes as before."""
    issuer.behave = lambda path: answer if path == "/token" else None
    try:
        with browser(office) as ann:
            told = done(ann, issuer, groups=["dev"])
            assert told.status_code in (403, 502) and said in told.text, told.text
    finally:
        issuer.behave = lambda path: None
    with browser(office) as ann:
        assert done(ann, issuer, groups=["dev"]).status_code == 303
