"""Who people are: at the agent beside the instance, with what authz says of their claims."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwk, jws

from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.tokens import PRIVATE, provider

LAMPS = "lamps.production"
AUTHN = {"providers": [provider()]}
SALE = {
    "rules": [
        {"name": "not haxor69", "deny": "anybody", "match": {"claims": {"sub": "haxor69"}}},
        {"name": "customers", "allow": "anybody", "match": {"claims": {"sub": {"present": True}}}},
    ]
}
KEY = jwk.import_key(PRIVATE)
OTHER = jwk.OKPKey.generate_key("Ed25519")


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        yield play


def guard(play: Playbook, **more: Any) -> None:
    play.put(play.instance("lamp", agent="here"), service=LAMPS, **more)


def token(sub: str, key: Any = KEY, **more: Any) -> str:
    claims = {"iss": "https://login", "aud": "lamps", "sub": sub, "exp": time.time() + 3600, **more}
    made = jws.serialize_compact({"alg": "Ed25519"}, json.dumps(claims), key, algorithms=["Ed25519"])
    return f"Authorization: Bearer {made}"


def asks(play: Playbook, *lines: str, inbound: bool = False) -> Wire:
    client = play.client(inbound=inbound)
    assert client >> "\r\n".join(["GET / HTTP/1.1", f"Host: {LAMPS}", *lines, "", ""]).encode()
    return client


def said(play: Playbook, wire: Wire) -> tuple[int, str, str]:
    """Status, policy and challenge; 200 where it has come to the instance."""
    if not wire.heard:
        assert not play.idle
        return 200, "", ""
    head = wire.heard.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:])
    assert b"policies/" not in wire.heard and play.idle
    return int(head[0].split()[1]), fields["x-shoal-policy"], fields.get("www-authenticate", "")


ABSENT = (401, "authn", "Bearer")
INVALID = (401, "authn", 'Bearer error="invalid_token"')
DENIED = (403, "authz", "")
PASSES = (200, "", "")


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", ABSENT),
        ("x-sub: ann", ABSENT),
        ("Authorization: Basic YTpi", ABSENT),
        (token("ann", OTHER), INVALID),
        (token("haxor69"), DENIED),
        (token("ann"), PASSES),
    ],
)
def test_haxor69_gets_no_lamp(play: Playbook, line: str, answer: Any, inbound: bool) -> None:
    """401 for nobody, 403 for him; on one host as over two."""
    guard(play, authn=AUTHN, authz=SALE)
    more = [line] if line else []
    if inbound:
        more.append(f"X-Shoal-Endpoint: {LAMPS}/lamp")
    assert said(play, asks(play, *more, inbound=inbound)) == answer


def test_without_authn_no_claim_holds(play: Playbook) -> None:
    """Whatever a token says that nobody has verified; nor by a document that is only watched."""
    guard(play, authz=SALE)
    assert said(play, asks(play, token("ann"))) == DENIED
    guard(play, authn={**AUTHN, "mode": "audit"}, authz=SALE)
    assert said(play, asks(play, token("ann"))) == DENIED


BACKUP = "backup.production"


def full(play: Playbook, **backup: Any) -> None:
    """One request is all that there is room for; others go to a service that believes other issuers, or none."""
    play.put(play.instance("spare", agent="here"), service=BACKUP, **backup)
    guard(play, authn=AUTHN, shed={"concurrency": 1, "instead": [{"service": BACKUP}]})
    assert said(play, asks(play, token("ann"))) == PASSES


def test_no_claim_goes_over_to_another_service(play: Playbook) -> None:
    """What one's documents have verified, another's have not, and its rules do not believe it."""
    full(play, authz=SALE)
    play.upstream("lamp")
    assert said(play, asks(play, token("ann"))) == DENIED


def test_another_service_verifies_by_its_own_documents(play: Playbook) -> None:
    """And refuses what counts for the one before."""
    full(play, authn={"providers": [provider(OTHER.as_dict(private=False))]}, authz=SALE)
    play.upstream("lamp")
    assert said(play, asks(play, token("ann"))) == INVALID


def test_a_copy_has_no_claims_of_the_service_that_was_called(play: Playbook) -> None:
    """Nor do guards of where it is copied to believe them."""
    play.put(play.instance("spare", agent="here"), service=BACKUP, authz=SALE)
    guard(play, authn=AUTHN, shadow={"copies": [{"to": BACKUP, "percent": 100}]})
    client = asks(play, token("ann"))
    wire = play.upstream("lamp")
    assert wire.heard and wire >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert client.heard.endswith(b"ok") and play.idle


@pytest.mark.parametrize(("line", "answer"), [("", DENIED), (token("ann", OTHER), INVALID), (token("ann"), PASSES)])
def test_absent_is_not_invalid_and_not_valid(play: Playbook, line: str, answer: Any) -> None:
    """Where none is required."""
    guard(play, authn={**AUTHN, "required": False}, authz=SALE)
    assert said(play, asks(play, *([line] if line else []))) == answer


def test_a_document_that_is_only_watched_refuses_nobody(play: Playbook) -> None:
    guard(play, authn={**AUTHN, "mode": "audit"})
    assert said(play, asks(play)) == PASSES


def test_a_key_that_is_taken_out_ends_what_it_has_signed(play: Playbook) -> None:
    """At once, though its token was verified a moment ago."""
    guard(play, authn=AUTHN)
    assert said(play, asks(play, token("ann"))) == PASSES
    with Playbook(host="here") as again:
        guard(again, authn=AUTHN)
        guard(again, authn={"providers": [provider(OTHER.as_dict(private=False))]})
        assert said(again, asks(again, token("ann"))) == INVALID


@pytest.mark.parametrize(("line", "status"), [("", 401), (token("ann", OTHER), 401), (token("haxor69"), 403)])
def test_explanations_say_why_and_who_calls_does_not_hear_it(play: Playbook, line: str, status: int) -> None:
    """By document."""
    guard(play, authn=AUTHN, authz=SALE)
    headers = [line.split(": ", 1)] if line else []
    told = explain(play.worker, Explain(url=f"http://{LAMPS}/", headers=headers))
    assert told["status"] == status
    assert f"policies/auth{'n' if status == 401 else 'z'}/{LAMPS}: " in json.dumps(told)
