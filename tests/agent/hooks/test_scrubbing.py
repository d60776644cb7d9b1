"""No piece of a secret is in what is told."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.scrubbing import LEFT_OUT, Scrub

SECRET = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
URL = "https://hooks.chat.example/services/T024/B0/XyZ-123/abc"


@pytest.mark.parametrize(
    "echo",
    [
        f"no such token: {SECRET}",
        SECRET[:12],
        SECRET[20:],
        SECRET.upper(),
        json.dumps({"authorization": f"Bearer {SECRET}"}),
        quote(SECRET, safe=""),
        " ".join(SECRET),
        base64.b64encode(f"bot@acme.example:{SECRET}".encode()).decode(),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_an_echo_is_left_out(echo: str) -> None:
    """Whole, in part, and in the ways in which it is sent and quoted."""
    scrub = Scrub([SECRET + "\n"], ["bot@acme.example"])
    assert scrub.clean(f"status 401: {echo}") == f"status 401: {LEFT_OUT}"
    assert scrub.clean(echo).endswith(LEFT_OUT)


def test_an_address_that_is_a_secret() -> None:
    """Its host is a piece of it, its scheme is not."""
    scrub = Scrub([URL])
    for said in ("hooks.chat.example is 10.0.0.1, which is private", "no route to /services/T024/B0/XyZ-123"):
        assert LEFT_OUT in scrub.clean(said)
    assert scrub.clean("status 503: https://status.corp has more") == "status 503: https://status.corp has more"


def test_what_has_nothing_of_it_stays() -> None:
    """People want to know why."""
    for said in ("status 401: Bad credentials", "no whole answer within 2 s", "opened issue 7", ""):
        assert Scrub([SECRET, URL]).clean(said) == said
    assert Scrub([]).clean("anything") == "anything"


@given(st.text(alphabet="abcdefgh0123456789-_/", min_size=8, max_size=60), st.text(max_size=50), st.text(max_size=50))
def test_a_secret_never_passes(secret: str, before: str, after: str) -> None:
    """Wherever it stands."""
    assert not secret.strip() or secret not in Scrub([secret]).clean(f"{before}{secret}{after}")
