"""A worker with keys that control has fetched, and with API keys: what passes, what is told, and what ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwk, jws

from agent.frames import IssuerKeys
from agent.proxy.request.explain import explain
from agent.questions import Explain
from policies.kinds.authn.api_keys import SECRET_BYTES, made
from tests.agent.proxy.test_authn import INVALID, LAMPS, PASSES, SALE, asks, guard, said, token
from tests.agent.proxy.test_authz import SWITCHED, UPGRADE
from tests.support.playbook import Playbook
from tests.support.tokens import PUBLIC

URL = "https://login/jwks"
AUTHN = {
    "providers": [{"issuer": "https://login", "audiences": ["lamps"], "algorithms": ["EdDSA"], "jwks_url": URL}],
}
KEYS = {kid: jwk.OKPKey.generate_key("Ed25519", {"kid": kid}) for kid in ("old", "new")}
OLD, NEW = [key.as_dict(private=False) for key in KEYS.values()]
CI, CI_HASH = made("ci", b"\x01" * SECRET_BYTES)
KEYED = {"api_keys": {"keys": [{"id": "ci", "hash": CI_HASH, "claims": {"sub": "robot"}}]}}


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        yield play


def keys(play: Playbook, *found: dict[str, str], source: str = URL) -> None:
    assert play.worker.take(IssuerKeys(source, [*found])) == []


def by(kid: str, sub: str = "ann") -> str:
    claims = {"iss": "https://login", "aud": "lamps", "sub": sub, "exp": time.time() + 3600}
    made = jws.serialize_compact({"alg": "Ed25519", "kid": kid}, json.dumps(claims), KEYS[kid], algorithms=["Ed25519"])
    return f"Authorization: Bearer {made}"


def answered(play: Playbook, *lines: str) -> tuple[int, str, str]:
    """The same as `said`; an instance that it comes to has answered then."""
    wire = asks(play, *lines)
    if not wire.heard:
        assert play.upstream("lamp") >> b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        assert wire.heard.startswith(b"HTTP/1.1 200")
        return PASSES
    return said(play, wire)


def test_without_keys_nobody_can_say(play: Playbook) -> None:
    """503, to be tried again; who calls hears nothing of where they are from, and control hears that they are missed.
    Whoever shows nothing is refused as ever."""
    missed: list[str] = []
    play.worker.table.keyring.on_missing = missed.append
    guard(play, authn=AUTHN)
    client = asks(play, token("ann"))
    assert b"HTTP/1.1 503" in client.heard and b"retry-after: 5" in client.heard and b"login" not in client.heard
    assert b"www-authenticate" not in client.heard and missed == [URL]
    assert said(play, asks(play)) == (401, "authn", "Bearer")
    line = token("ann").split(": ", 1)
    told = explain(play.worker, Explain(url=f"http://{LAMPS}/", headers=[[line[0], line[1]]]))
    assert told["status"] == 503 and "were never got, from https://login/jwks" in json.dumps(told)


def test_keys_come_and_go_without_a_document(play: Playbook) -> None:
    """Both are at once."""
    guard(play, authn=AUTHN, authz=SALE)
    keys(play, OLD)
    assert answered(play, by("old")) == PASSES
    assert answered(play, by("old", "haxor69")) == (403, "authz", "")
    assert answered(play, by("new")) == INVALID
    keys(play, OLD, NEW)
    assert answered(play, by("new")) == answered(play, by("old")) == PASSES
    keys(play, NEW)
    assert answered(play, by("old")) == INVALID and answered(play, by("new")) == PASSES


def test_keys_outlive_a_document_that_comes_anew(play: Playbook) -> None:
    keys(play, OLD)
    guard(play, authn=AUTHN)
    guard(play, authn={**AUTHN, "skew": "10s"})
    assert answered(play, by("old")) == PASSES


def test_what_is_under_way_by_a_key_that_is_withdrawn_ends(play: Playbook) -> None:
    """A WebSocket, at once; one whose key is still there goes on, and so does everything when keys only come."""
    guard(play, authn=AUTHN)
    keys(play, OLD, NEW)
    old = asks(play, by("old"), UPGRADE)
    up = play.upstream("lamp")
    assert up >> SWITCHED and old.heard.startswith(b"HTTP/1.1 101")
    new = asks(play, by("new"), UPGRADE)
    other = play.upstream("lamp")
    assert other >> SWITCHED and new.heard.startswith(b"HTTP/1.1 101")
    keys(play, OLD, NEW, {**PUBLIC, "kid": "more"})
    assert not old.closed and not new.closed
    keys(play, PUBLIC, source="https://other/jwks")
    keys(play, source="https://other/jwks")
    assert not old.closed
    keys(play, NEW)
    assert old.closed and up.closed and not new.closed and not other.closed
    assert new >> b"on" and other.heard.endswith(b"on")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (f"X-Api-Key: {CI}", PASSES),
        ("", (401, "authn", "ApiKey")),
        (f"X-Api-Key: {CI[:-1]}x", (401, "authn", "ApiKey")),
        (token("ann"), (401, "authn", "ApiKey")),
    ],
)
def test_programs_show_keys(play: Playbook, line: str, answer: Any) -> None:
    """And rules ask for what they claim."""
    guard(play, authn=KEYED, authz=SALE)
    assert answered(play, *([line] if line else [])) == answer


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (f"X-Api-Key: {CI}", PASSES),
        (token("ann"), PASSES),
        (token("haxor69"), (403, "authz", "")),
        (f"X-Api-Key: {CI}\r\n{token('ann')}", INVALID),
        ("", (401, "authn", "Bearer")),
    ],
)
def test_people_and_programs_at_one_service(play: Playbook, line: str, answer: Any) -> None:
    """A token or a key, and never both."""
    guard(play, authn={**AUTHN, **KEYED}, authz=SALE)
    keys(play, PUBLIC)
    assert answered(play, *([line] if line else [])) == answer


def test_a_key_that_is_taken_out_ends_what_it_has_begun(play: Playbook) -> None:
    guard(play, authn=KEYED)
    client = asks(play, f"X-Api-Key: {CI}", UPGRADE)
    up = play.upstream("lamp")
    assert up >> SWITCHED and not client.closed
    _, other = made("other", b"\x02" * SECRET_BYTES)
    guard(play, authn={"api_keys": {"keys": [{"id": "other", "hash": other, "claims": {"sub": "x"}}]}})
    assert client.closed and up.closed
