"""Claims told to who operates: explained, counted, recorded; and what is under way when a token ends."""

from __future__ import annotations

import json

import pytest

from agent.proxy.messages.presented import Presented
from agent.proxy.request.explain import explain
from agent.questions import Explain
from policies.catalogue import parse
from policies.kinds.authn.api_keys import made
from policies.kinds.authn.document import Authn
from tests.support.claims import AUTHN, CANARY, LAMPS, TOLD, asks, bearer, heard, jwt, lines, put, status
from tests.support.playbook import Playbook
from tests.support.tokens import provider


def test_what_is_in_a_token_is_told_to_who_operates(play: Playbook) -> None:
    put(play, authn=AUTHN)
    headers = [bearer(sub="ann-the-first").split(": ", 1)]
    for shown in (True, False):
        told = json.dumps(explain(play.worker, Explain(f"http://{LAMPS}/", headers=headers, shows_claims=shown)))
        assert ("ann-the-first" in told) is shown
    client = asks(play, ": ".join(headers[0]), "x-shoal-explain: 1")
    heard(play)
    assert b"x-shoal-explain: " in client.heard and b"ann-the-first" not in client.heard


def test_a_path_that_a_route_makes_is_told_without_the_token(play: Playbook) -> None:
    """Of the query."""
    authn = {**AUTHN, "token": {"query": "jwt"}}
    put(play, authn=authn, route={"rules": [{"rewrite": {"path": "/b"}}]})
    made = jwt(sub="ann")
    told = json.dumps(explain(play.worker, Explain(f"http://{LAMPS}/a?jwt={made}")))
    assert "/b?jwt=hidden" in told and made not in told


def test_claims_that_are_supposed_go_over_to_the_other_agent(play: Playbook) -> None:
    put(play, "there", authn=AUTHN, route=CANARY)
    told = explain(play.worker, Explain(f"http://{LAMPS}/", claims={"tier": "free"}))
    assert told["endpoint"]["version"] == "v2" and told["hop"].claims == {"tier": "free"}
    assert told["hop"].shows_claims is False


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("", "absent"),
        (bearer(sub="ann"), "valid"),
        (bearer(exp=1), "expired"),
        (bearer(nbf=4e9), "not-yet"),
        (bearer(aud="x"), "audience"),
        (bearer(iss="x"), "issuer"),
        (bearer(other=True), "signature"),
        ("Authorization: Bearer x", "malformed"),
    ],
)
def test_what_tokens_come_to_is_counted(play: Playbook, line: str, verdict: str) -> None:
    """Once on one host, though two phases ask."""
    put(play, authn=AUTHN)
    client = asks(play, *([line] if line else []))
    if not client.heard:
        heard(play)
    assert play.worker.table.services[LAMPS].stats.authenticated == {f"{LAMPS}\t{verdict}": 1}


def test_what_is_under_way_ends_with_its_token(play: Playbook) -> None:
    """When the document changes by which it counted, and is not written down as a person's."""
    put(play, authn=AUTHN)
    client = asks(play, bearer(sub="ann"), "Connection: upgrade", "Upgrade: websocket")
    up = play.upstream()
    assert up >> b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert client >> b"hello" and up.heard.endswith(b"hello")
    put(play, authn={**AUTHN, "headers": {"x-user": "sub"}})
    assert client >> b" again" and up.heard.endswith(b"hello again")
    put(play, authn={"providers": [{**provider(), "audiences": ["others"]}]})
    assert client.closed and up.closed
    assert play.worker.table.services[LAMPS].stats.authenticated[f"{LAMPS}\tended"] == 1


def test_a_second_try_beside_the_first_has_what_is_its_own(play: Playbook) -> None:
    """One instance is of this host, and gets no token; the other's agent verifies."""
    places = [play.instance("a", agent="here"), play.instance("b", agent="there", via=True)]
    hedge = {"hedge": {"after": "20ms", "least": "1ms"}, "budget": {"ratio": 1}}
    play.put(*places, service=LAMPS, authn=TOLD, balance={"algorithm": "round-robin"}, retry=hedge)
    asks(play, bearer(sub="ann"), "X-User: root")
    seen: dict[str, bytes] = {}
    for _ in range(2):
        wire = play.upstream()
        seen[wire.name] = wire.heard.lower()
        play.passes(0.1)
    assert b"authorization" not in seen["a"] and b"x-user: ann" in seen["a"]
    assert b"authorization" in seen["b"] and b"x-user" not in seen["b"]


def test_what_is_stored_has_no_token_that_is_not_for_instances(play: Playbook) -> None:
    """Nor what only the mesh says."""
    from agent.proxy.control.storing import record_of
    from agent.proxy.http1.head import parse_request
    from agent.proxy.messages.head import HeadRules
    from policies.kinds.shed.decide import Store

    made = jwt(sub="ann")
    head = f"POST /a?b=1 HTTP/1.1\r\nHost: {LAMPS}\r\nAuthorization: Bearer {made}\r\nX-User: root\r\nX-A: 1: 2"
    store = Store("redis://r/0?stream=s", {}, frozenset([b"POST"]))
    for more, kept in ((TOLD, False), (AUTHN, True)):
        document = parse("authn", "lamps", json.dumps(more).encode())
        assert isinstance(document, Authn)
        told = Presented([document]).told(None)
        request = parse_request(head.encode(), HeadRules())
        record = record_of(request, store, "1", introduction=told, service=LAMPS, caller="", request_id=b"r", pieces=[])
        found = json.loads(record)
        assert (made in record.decode()) is kept and (b"root" in record) is kept
        assert ["x-a", "1: 2"] in found["headers"] and found["target"] == "/a?b=1"


def test_api_keys_are_people_too(play: Playbook) -> None:
    """Claims of a key choose, and the key is taken out like a token; in a query it is in no record."""

    key, hashed = made("ci", bytes(32))
    keys = [{"id": "ci", "hash": hashed, "claims": {"sub": "ci", "tier": "free"}}]
    recorder = play.worker.recorder
    recorder.keep(True)
    for place, target in (({}, "/"), ({"query": "key"}, f"/?key={key}")):
        put(
            play,
            authn={"api_keys": {"keys": keys, **place}, "forward": False, "headers": {"x-user": "sub"}},
            route=CANARY,
        )
        asks(play, *([] if place else [f"X-API-Key: {key}"]), "x-user: root", target=target)
        name, text = heard(play)
        assert name == "v2" and b"x-user: ci" in lines(text) and key.encode() not in text
        records = recorder.take(10)
        assert records is not None and key.encode() not in records.lines
    assert status(asks(play, target=f"/?key={key[:-1]}")) == 401
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authenticated == {f"{LAMPS}\tvalid": 2, f"{LAMPS}\tapi-key": 1}


def test_an_audit_has_claims_and_no_token(play: Playbook) -> None:
    """Whatever header its document names: one that has a token is recorded by nobody, nor one that somebody made up."""
    authn = {**AUTHN, "token": {"header": "X-JWT"}, "headers": {"x-user": "sub"}}
    audit = {"requests": "all", "claims": ["sub"], "headers": ["x-jwt", "x-user", "x-a"]}
    put(play, authn=authn, audit=audit)
    made = jwt(sub="ann")
    asks(play, f"X-JWT: {made}", "x-user: root", "x-a: kept")
    heard(play)
    play.passes(0.05)
    audited = play.worker.audit.take(10)
    assert audited is not None
    text = audited.lines.decode()
    assert made not in text and "root" not in text and "kept" in text and "ann" in text
