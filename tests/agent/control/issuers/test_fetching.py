"""One look at a real issuer, over TLS, that does what issuers do, and what nobody should believe."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.control.issuers import fetching
from agent.control.issuers.fetching import CEILING_S, FLOOR_S, MAX_KEYS, USUAL_S, Found, fetch, lifetime_s
from agent.control.outgoing.client import Client
from agent.hooks.targets import Targets
from policies.kinds.authn.source import Source, of_issuer, of_keys
from tests.support.issuer import WELL_KNOWN, Issuer, Said
from tests.support.tokens import PRIVATE, PUBLIC
from tests.support.web_pki import certificate, root, server_context


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    found = Issuer(server_context(tmp_path, certificate("localhost")))
    found.turn("a")
    yield found
    found.close()


def client(*allow: str, trusts: str = "") -> Client:
    tls = ssl.create_default_context()
    tls.load_verify_locations(cadata=trusts or root())
    return Client(Targets(allow or ("localhost",), "authn.allow"), tls)


async def look(source: Source, **more: Any) -> Found | str:
    return await fetch(client(), source, **more)


def says(body: Any, status: int = 200, **headers: str) -> Said:
    return status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()


async def test_keys_come_from_where_the_document_says(issuer: Issuer) -> None:
    """With the time for which they are fresh; and what is the same is not sent again."""
    issuer.headers = {"Cache-Control": "public, max-age=900"}
    found = await look(of_keys(issuer.jwks_url))
    assert isinstance(found, Found) and found.jwks is not None
    assert [jwk["kid"] for jwk in found.jwks] == ["a"] and found.fresh_s == 900
    again = await look(of_keys(issuer.jwks_url), known=(found.url, found.etag))
    assert isinstance(again, Found) and again.jwks is None and again.etag == found.etag
    issuer.turn("b")
    other = await look(of_keys(issuer.jwks_url), known=(found.url, found.etag))
    assert isinstance(other, Found) and other.jwks is not None and len(other.jwks) == 2


async def test_an_issuer_says_itself_where_its_keys_are(issuer: Issuer) -> None:
    found = await look(of_issuer(issuer.name))
    assert isinstance(found, Found) and found.jwks is not None and found.url == issuer.jwks_url
    assert [path for path, _ in issuer.asked] == [WELL_KNOWN, "/jwks"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"issuer": "https://evil.example", "jwks_uri": "https://evil.example/jwks"}, "and not 'https://localhost:"),
        ({"jwks_uri": "https://evil.example/jwks"}, "and not 'https://localhost:"),
        ({"issuer": "SLASH", "jwks_uri": "https://evil.example/jwks"}, "and not 'https://localhost:"),
        ({"issuer": "OWN"}, "without jwks_uri"),
        ({"issuer": "OWN", "jwks_uri": "file:///etc/passwd"}, "jwks_uri: no URL"),
        ({"issuer": "OWN", "jwks_uri": "http://localhost:1/jwks"}, "is not https"),
        ({"issuer": "OWN", "jwks_uri": "https://169.254.169.254/latest"}, "169.254.169.254 is link-local"),
        ({"issuer": "OWN", "jwks_uri": "https://127.0.0.1:1/jwks"}, "127.0.0.1 is loopback"),
        ([], "no object of JSON"),
    ],
)
async def test_a_description_counts_for_its_own_issuer_and_leads_nowhere_inside(
    issuer: Issuer, said: Any, reason: str
) -> None:
    """To the letter; and where it leads is judged."""
    text = json.dumps(said).replace("OWN", issuer.name).replace("SLASH", issuer.name + "/")
    issuer.behave = lambda path: says(text.encode()) if path == WELL_KNOWN else None
    found = await look(of_issuer(issuer.name))
    assert isinstance(found, str) and reason in found


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"oops", 500), "it answers 500"),
        (says(b"", 304), "it answers 304"),
        (says(b"", 204), "it answers 204"),
        (says(b"<html>"), "no object of JSON"),
        (says(b"[" * 100_000), "no object of JSON"),
        (says(b"\xff\xfe"), "no object of JSON"),
        (says({"keys": {}}), "without a list"),
        (says({"key": []}), "without a list"),
        (says({"keys": [PUBLIC] * (MAX_KEYS + 1)}), f"at most {MAX_KEYS}"),
        (says(b"x" * (300 * 1024)), "bytes"),
        (says(b"x" * (10 << 20)), "more than 262144 bytes"),
        (says(b"", 302, location="http://169.254.169.254/"), "redirects are not followed"),
        (says(b"", 307, location="/jwks2"), "redirects are not followed"),
        (says({"keys": [PUBLIC]}, **{"content-encoding": "gzip"}), None),
    ],
)
async def test_what_is_no_set_of_keys_changes_nothing(issuer: Issuer, answer: Said, reason: str | None) -> None:
    """And is told in words. An encoding that nobody asked for is not undone."""
    issuer.behave = lambda path: answer
    found = await look(of_keys(issuer.jwks_url))
    assert isinstance(found, Found) if reason is None else isinstance(found, str) and reason in found


@pytest.mark.parametrize("drip", [False, True])
async def test_an_issuer_that_hangs_or_drips_ends_with_the_deadline(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, drip: bool
) -> None:
    """Which holds for the whole answer."""
    monkeypatch.setattr(fetching, "WITHIN_S", 0.5)
    over = threading.Event()
    issuer.drips = over if drip else None

    def hang(path: str) -> Said | None:
        over.wait(30)
        return None

    if not drip:
        issuer.behave = hang
    try:
        found = await look(of_keys(issuer.jwks_url))
    finally:
        over.set()
    assert isinstance(found, str) and "no whole answer within 0.5 s" in found


async def test_of_a_set_those_count_that_verify_tokens(issuer: Issuer) -> None:
    """Secrets, private keys, what encrypts and what nobody knows are passed over, and counted."""
    others: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {**PRIVATE, "kid": "private"},
        {**PUBLIC, "use": "enc"},
        {**PUBLIC, "x": 7},
        {**PUBLIC, "kid": "k" * 2000},
        {"kty": "new"},
        {},
        "text",
        None,
    ]
    issuer.behave = lambda path: says({"keys": [*others, {**PUBLIC, "kid": "good", "x5c": ["much"], "more": 1}]})
    found = await look(of_keys(issuer.jwks_url))
    assert isinstance(found, Found) and found.passed_over == len(others)
    assert found.jwks == ({**PUBLIC, "kid": "good"},)
    issuer.behave = lambda path: says({"keys": []})
    found = await look(of_keys(issuer.jwks_url))
    assert isinstance(found, Found) and found.jwks == ()


async def test_whom_nobody_vouches_for_is_not_believed(issuer: Issuer) -> None:
    """A certificate of another root; plain HTTP to a place that the settings do not name."""
    found = await fetch(client(trusts=root("another root")), of_keys(issuer.jwks_url))
    assert isinstance(found, str) and "certificate" in found.lower()
    found = await fetch(client("10.0.0.0/8"), of_keys(issuer.jwks_url))
    assert isinstance(found, str) and "authn.allow" in found
    found = await fetch(client("10.0.0.0/8"), of_keys("http://9.9.9.9/jwks"))
    assert isinstance(found, str) and "not named" in found


async def test_plain_http_is_spoken_to_whom_the_settings_name() -> None:
    plain = Issuer()
    try:
        plain.turn("a")
        assert isinstance(await look(of_issuer(plain.name)), Found)
    finally:
        plain.close()


@pytest.mark.parametrize(
    ("headers", "s"),
    [
        ({}, USUAL_S),
        ({"cache-control": "max-age=120"}, 120),
        ({"cache-control": "public, MAX-AGE=120", "age": "30"}, 90),
        ({"cache-control": "max-age=0"}, FLOOR_S),
        ({"cache-control": "max-age=999999999"}, CEILING_S),
        ({"cache-control": "max-age=9999999999999999"}, CEILING_S),
        ({"cache-control": "no-store"}, FLOOR_S),
        ({"cache-control": "no-cache, max-age=120"}, FLOOR_S),
        ({"cache-control": "s-maxage=5"}, USUAL_S),
        ({"cache-control": "max-age=-1"}, USUAL_S),
        ({"cache-control": "max-age=120", "age": "x"}, 120),
    ],
)
def test_how_long_an_answer_is_fresh_is_the_issuers_word_within_bounds(headers: dict[str, str], s: float) -> None:
    assert lifetime_s(headers) == s
