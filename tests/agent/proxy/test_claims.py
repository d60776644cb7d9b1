"""Claims at the caller's: what may ask for them there, whose they are, and what an instance is told of people."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.frames import PolicyFrame
from agent.proxy.messages.presented import Presented
from agent.proxy.request.explain import explain
from agent.questions import Explain
from policies.catalogue import parse
from policies.claim import Json
from policies.kinds.authn.api_keys import SECRET_BYTES, made
from policies.kinds.authn.document import Authn
from policies.kinds.authn.values import all_in_header, in_header
from tests.support.playbook import Playbook, Wire
from tests.support.tokens import provider, token

LAMPS = "lamps.production"
BACKUP = "backup.production"
AUTHN: dict[str, Any] = {"providers": [provider()], "required": False}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CANARY = {
    "rules": [{"match": {"claims": {"tier": "free"}}, "split": [{"version": "v2"}]}, {"split": [{"version": "v1"}]}]
}


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        yield play


def jwt(other: bool = False, **claims: Any) -> str:
    return token({"iss": "https://login", "aud": "lamps", "exp": time.time() + 3600, **claims}, other=other)


def bearer(other: bool = False, **claims: Any) -> str:
    return f"Authorization: Bearer {jwt(other, **claims)}"


def put(play: Playbook, agent: str = "here", **documents: Any) -> None:
    """Two versions of lamps."""
    via = agent != "here"
    places = [play.instance(name, version=name, agent=agent, via=via) for name in ("v1", "v2")]
    play.put(*places, service=LAMPS, **documents)


def asks(play: Playbook, *lines: str, target: str = "/", client: Wire | None = None, body: str = "") -> Wire:
    client = client or play.client()
    head = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", f"Host: {LAMPS}", *lines]
    assert client >> "\r\n".join([*head, "", body]).encode()
    return client


def heard(play: Playbook, name: str | None = None) -> tuple[str, bytes]:
    """Who was asked, and what it has heard; it answers, and its connection ends."""
    wire = play.upstream(name) if name else play.upstream()
    text = wire.heard
    assert wire >> OK
    wire.ends()
    return wire.name, text


def lines(text: bytes) -> list[bytes]:
    return text.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")


def status(client: Wire) -> int:
    return int(client.heard.split(b" ", 2)[1])


# Who may ask for them.


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (bearer(tier="free", sub="ann"), "v2"),
        (bearer(tier="paid", sub="ann"), "v1"),
        (bearer(sub="ann"), "v1"),
        ("x-tier: free", "v1"),
    ],
)
def test_a_canary_for_the_free_tier(play: Playbook, line: str, version: str) -> None:
    """By a claim of a token that was verified; over two hops as on one host."""
    put(play, "there", authn=AUTHN, route=CANARY)
    asks(play, line)
    name, text = heard(play)
    assert (name == version and b"authorization" in text.lower()) or "x-tier" in line


@pytest.mark.parametrize("agent", ["here", "there"])
def test_a_token_that_does_not_count_makes_no_trip(play: Playbook, agent: str) -> None:
    """Nor does it choose anything, nor take from a limit."""
    put(play, agent, authn=AUTHN, route=CANARY, ratelimit={"limits": [{"name": "all", "rate": "1/h"}]})
    client = asks(play, bearer(other=True, tier="free"))
    assert status(client) == 401 and play.idle and b"policies/" not in client.heard
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authenticated == {f"{LAMPS}\tsignature": 1} and stats.limited == {}
    asks(play, bearer(tier="free"))
    assert heard(play)[0] == "v2"


def test_no_document_no_claim(play: Playbook) -> None:
    """And with one that only watches, none either; nothing unverified selects."""
    for documents in ({}, {"authn": {**AUTHN, "mode": "audit"}}):
        put(play, "there", route=CANARY, **documents)
        asks(play, bearer(tier="free"))
        assert heard(play)[0] == "v1"
        told = explain(play.worker, Explain(f"http://{LAMPS}/", claims={"tier": "free"}))
        reasons = [each["reason"] for each in told["decisions"] if each["decision"] == "no claim holds"]
        assert reasons[0] == f"it names a claim, but no authn document covers {LAMPS}" and len(reasons) == 2


def test_a_document_that_nobody_knows_shuts_the_door_at_the_caller_s(play: Playbook) -> None:
    """Also where the route leads to a service that has none."""
    play.put("spare", service=BACKUP)
    put(
        play,
        "there",
        authn=PolicyFrame(LAMPS, 7, b"", "nobody knows"),
        route={"rules": [{"split": [{"service": BACKUP}]}]},
    )
    assert status(asks(play, bearer(sub="ann"))) == 503 and play.idle


def test_each_user_has_a_limit_of_his_own(play: Playbook) -> None:
    """By claim; who has no token shares one bucket with all others of these."""
    put(play, "there", authn=AUTHN, ratelimit={"limits": [{"name": "user", "rate": "1/h", "key": {"claim": "sub"}}]})
    for line, passes in [("ann", True), ("bob", True), ("ann", False), ("", True), ("", False), ("bob", False)]:
        client = asks(play, *([bearer(sub=line)] if line else []))
        if passes:
            heard(play)
        assert status(client) == (200 if passes else 429)


@pytest.mark.parametrize(
    "documents",
    [
        {"route": {"rules": [{"split": [{"version": "v1"}, {"version": "v2"}], "sticky": {"claim": "sub"}}]}},
        {"balance": {"sticky": {"claim": "sub"}}},
        {"balance": {"algorithm": "ring-hash", "hash": [{"claim": "sub"}]}},
        {"balance": {"algorithm": "maglev", "hash": [{"claim": "sub"}]}},
    ],
)
def test_a_user_stays_where_he_was(play: Playbook, documents: dict[str, Any]) -> None:
    """By claim, whatever else his tokens say."""
    put(play, "there", authn=AUTHN, **documents)
    seen = {}
    for user in range(12):
        names = set()
        for n in range(3):
            asks(play, bearer(sub=f"user-{user}", jti=str(n)))
            names.add(heard(play)[0])
        assert len(names) == 1
        seen[user] = names.pop()
    assert set(seen.values()) == {"v1", "v2"}


def test_guinea_pigs_by_claim(play: Playbook) -> None:
    route = {
        "groups": {"pigs": {"claim": "sub", "where": {"in": ["ann"]}}},
        "rules": [{"match": {"groups": ["pigs"]}, "split": [{"version": "v2"}]}, {"split": [{"version": "v1"}]}],
    }
    put(play, "there", authn=AUTHN, route=route)
    for user, version in (("ann", "v2"), ("bob", "v1")):
        asks(play, bearer(sub=user))
        assert heard(play)[0] == version


def test_callers_agents_ask_rules_with_claims(play: Playbook) -> None:
    """Where `outbound` says so: 403 without the trip."""
    rules = [{"name": "no", "deny": "anybody", "match": {"claims": {"sub": "haxor69"}}}, {"allow": "anybody"}]
    put(play, "there", authn=AUTHN, authz={"rules": rules, "outbound": True})
    assert status(asks(play, bearer(sub="haxor69"))) == 403 and play.idle
    asks(play, bearer(sub="ann"))
    heard(play)


def copies(play: Playbook, backup: dict[str, Any], **lamps: Any) -> dict[str, bytes]:
    """What the request's instance and the copy's hear."""
    play.put(play.instance("spare", agent="here"), service=BACKUP, **backup)
    shadow = {"copies": [{"to": BACKUP, "match": {"claims": {"tier": "free"}}, "percent": 100}]}
    play.put(play.instance("v1", agent="here"), service=LAMPS, authn={**AUTHN, **lamps}, shadow=shadow)
    asks(play, bearer(tier="free", sub="ann"), "x-user: root")
    found = dict([heard(play, "v1")])
    play.passes(0.05)
    if not play.idle:
        found |= dict([heard(play)])
    return found


def test_copies_by_claim(play: Playbook) -> None:
    """Of the free tier; to a service that verifies nobody, with the token or without, as the first one says."""
    found = copies(play, {})
    assert b"authorization" in found["spare"].lower()
    asks(play, bearer(tier="paid"))
    heard(play, "v1")
    play.passes(0.05)
    assert play.idle


def test_a_copy_has_no_token_that_is_not_for_instances(play: Playbook) -> None:
    found = copies(play, {}, forward=False, headers={"x-user": "sub"})
    assert b"x-user: ann" in lines(found["v1"])
    for text in found.values():
        assert b"authorization" not in text.lower() and b"root" not in text
    assert b"x-user" not in found["spare"].lower(), "what its documents have not verified is not told"


def test_a_copy_is_introduced_by_the_documents_of_its_service(play: Playbook) -> None:
    found = copies(play, {"authn": {**AUTHN, "forward": False, "headers": {"x-who": "sub"}}})
    assert b"x-who: ann" in lines(found["spare"]) and b"authorization" not in found["spare"].lower()
    assert b"authorization" in found["v1"].lower() and b"x-who" not in found["v1"].lower()


def test_a_copy_whose_service_does_not_know_the_issuer_is_not_made(play: Playbook) -> None:
    theirs = {"providers": [{**provider(), "issuer": "https://other"}]}
    assert set(copies(play, {"authn": theirs})) == {"v1"}


# Whose they are.


def test_a_claim_does_not_go_over_to_where_a_route_leads(play: Playbook) -> None:
    """Its balance asks for those that its own documents have verified: none; so users are not kept together."""
    places = [play.instance(name, agent="there", via=True) for name in ("s1", "s2", "s3", "s4")]
    split = {"rules": [{"match": {"claims": {"tier": "free"}}, "split": [{"service": BACKUP}]}]}
    sticky = {"algorithm": "round-robin", "sticky": {"claim": "sub"}}
    for documents, most in (({}, 4), ({"authn": AUTHN}, 1)):
        play.put(*places, service=BACKUP, balance=sticky, **documents)
        put(play, "there", authn=AUTHN, route=split)
        names = set()
        for _ in range(8):
            asks(play, bearer(tier="free", sub="ann"))
            names.add(heard(play)[0])
        assert len(names) == most


def test_where_it_leads_the_token_is_judged_before_the_trip(play: Playbook) -> None:
    """By that one's documents, and refused for both."""
    theirs = {"providers": [{**provider(), "audiences": ["backup"]}]}
    play.put(play.instance("spare", agent="there", via=True), service=BACKUP, authn=theirs)
    put(play, "there", authn=AUTHN, route={"rules": [{"split": [{"service": BACKUP}]}]})
    assert status(asks(play, bearer(sub="ann"))) == 401 and play.idle
    asks(play, bearer(sub="ann", aud=["lamps", "backup"]))
    heard(play, "spare")


def test_shadows_ask_for_claims_of_the_service_that_was_called(play: Playbook) -> None:
    """Though the request goes to another, which has verified others."""
    play.put(play.instance("spare", agent="there", via=True), service=BACKUP)
    play.put("dog", service="dogs.production")
    shadow = {"copies": [{"to": "dogs.production", "match": {"claims": {"tier": "free"}}, "percent": 100}]}
    put(play, "there", authn=AUTHN, shadow=shadow, route={"rules": [{"split": [{"service": BACKUP}]}]})
    asks(play, bearer(tier="free"))
    heard(play, "spare")
    play.passes(0.05)
    assert heard(play)[0] == "dog"


# What an instance is told.


@pytest.mark.parametrize("forward", [True, False])
def test_what_services_take_for_the_tokens_header(play: Playbook, *, forward: bool) -> None:
    """`X_JWT` is one name with it to CGI and WSGI, and nobody has verified it: it is taken out."""
    put(play, authn={**AUTHN, "token": {"header": "x-jwt"}, "forward": forward})
    asks(play, f"x-jwt: {jwt(sub='ann')}", "x_jwt: junk", "X_JWT: junk", "x_other: kept")
    text = heard(play)[1].lower()
    assert b"junk" not in text and b"x_other: kept" in text
    assert (b"x-jwt: " in text) is forward


@pytest.mark.parametrize(
    ("query", "recorded", "handed_on"),
    [
        ("a=1&tok=s&b=2", "a=1&tok=hidden&b=2", "a=1&b=2"),
        ("a=1;tok=s", "a=1;tok=hidden", "a=1"),
        ("a=1;t%6fk=s;b=2&c;d", "a=1;t%6fk=hidden;b=2&c;d", "a=1;b=2&c;d"),
        ("tok=s;tok=t&a=1", "tok=hidden&a=1", "a=1"),
        (";tok=s;;a=1&tok", ";tok=hidden;;a=1&tok=hidden", ";;a=1"),
        ("a=1;b=2", "a=1;b=2", "a=1;b=2"),
    ],
)
def test_a_token_in_a_query_however_it_is_parted(query: str, recorded: str, handed_on: str) -> None:
    """Some services part parameters by `;` too, and a record is no place for what is one to them."""
    document = parse("authn", LAMPS, json.dumps({**AUTHN, "token": {"query": "tok"}, "forward": False}).encode())
    assert isinstance(document, Authn)
    presented = Presented([document])
    assert presented.recorded(f"/x?{query}".encode()) == f"/x?{recorded}".encode()
    assert presented.target(f"/x?{query}".encode()) == f"/x?{handed_on}".encode()
    watched = Presented([], [document])
    assert watched.recorded(f"/x?{query}".encode()) == f"/x?{recorded}".encode()


TOLD = {**AUTHN, "forward": False, "headers": {"x-user": "sub", "X-Roles": "roles"}, "payload": "x-claims"}
SPOOFED = ("x-user: root", "X-User: root", "x_user: root", "X-ROLES: root", "x-claims: root", "x_claims: root")


@pytest.mark.parametrize("line", ["", bearer(sub="ann", roles=["staff"])])
def test_nobody_else_says_who_it_is(play: Playbook, line: str) -> None:
    """Whoever sends it, under whatever spelling, with a token or without."""
    put(play, authn=TOLD)
    asks(play, *SPOOFED, "x-other: kept", *([line] if line else []))
    text = heard(play)[1].lower()
    assert b"root" not in text and b"x-other: kept" in text and b"authorization" not in text
    if line:
        assert {b"x-user: ann", b'x-roles: ["staff"]'} <= set(lines(text))
    else:
        assert b"x-user" not in text and b"x-roles" not in text and b"x-claims" not in text


def test_all_claims_in_one_header(play: Playbook) -> None:
    """As JSON, with their types."""
    put(play, authn=TOLD)
    asks(play, bearer(sub="änn", roles=["staff", 1], admin=True, n=7))
    (said,) = [line for line in heard(play)[1].split(b"\r\n") if line.startswith(b"x-claims: ")]
    text = said.partition(b": ")[2]
    found = json.loads(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)))
    assert {"sub": "änn", "roles": ["staff", 1], "admin": True, "n": 7, "iss": "https://login"}.items() <= found.items()


def test_before_the_trip_too(play: Playbook) -> None:
    """A route that matches what somebody says for the mesh matches nothing; the token goes on to where it is needed."""
    route = {
        "rules": [
            {"match": {"headers": {"x-user": "root"}}, "split": [{"version": "v2"}]},
            {"split": [{"version": "v1"}]},
        ]
    }
    put(play, "there", authn=TOLD, route=route)
    asks(play, bearer(sub="ann"), *SPOOFED)
    name, text = heard(play)
    assert name == "v1" and b"root" not in text and b"authorization: bearer" in text.lower()
    assert b"x-user" not in text.lower(), "only the agent beside the instance says it"


def test_a_route_says_nothing_in_the_mesh_s_name(play: Playbook) -> None:
    """Not to the instance, and not to rules beside it."""
    route = {"rules": [{"headers": {"request": {"set": {"x-user": "root"}, "add": {"X-Roles": "root"}}}}]}
    rules = [{"deny": "anybody", "match": {"headers": {"x-user": "root"}}}, {"allow": "anybody"}]
    put(play, authn=TOLD, route=route, authz={"rules": rules})
    asks(play, bearer(sub="ann"))
    assert b"root" not in heard(play)[1]


def test_trailers_do_not_say_it_either(play: Playbook) -> None:
    put(play, authn=TOLD)
    body = "2\r\nab\r\n0\r\nx-user: root\r\nX_Claims: root\r\nx-sum: 1\r\n\r\n"
    asks(play, "Transfer-Encoding: chunked", "Trailer: x-user", body=body)
    text = heard(play)[1]
    assert b"x-user: root" not in text and b"X_Claims" not in text and b"x-sum: 1" in text


@pytest.mark.parametrize(
    ("place", "line", "target", "left"),
    [
        ({"header": "x-jwt"}, "x-jwt: {}", "/a?b=1", []),
        ({"cookie": "session"}, "Cookie: theme=dark; session={}; lang=de", "/a?b=1", [b"cookie: theme=dark; lang=de"]),
        ({"cookie": "session"}, "Cookie: session={}", "/a?b=1", []),
        ({"query": "jwt"}, "x-a: 1", "/a?b=1&jwt={}", [b"x-a: 1"]),
        ({"query": "jwt"}, "x-a: 1", "/a?j%77t={}&b=1", [b"x-a: 1"]),
    ],
)
def test_a_token_is_taken_out_of_where_it_was(
    play: Playbook, place: dict[str, str], line: str, target: str, left: list[bytes]
) -> None:
    """And nothing else is."""
    put(play, authn={**AUTHN, "required": True, "token": place, "forward": False})
    made = jwt(sub="ann")
    recorder = play.worker.recorder
    recorder.keep(True)
    client = asks(play, line.format(made), target=target.format(made))
    text = heard(play)[1]
    assert status(client) == 200 and made.encode() not in text and text.startswith(b"GET /a?b=1 HTTP/1.1\r\n")
    assert set(left) <= set(lines(text)) and (left or b"cookie" not in text.lower())
    records = recorder.take(10)
    assert records is not None and made.encode() not in records.lines and b"GET" in records.lines


@pytest.mark.parametrize(
    ("place", "line", "target"),
    [
        ({}, "X-Api-Key: {}", "/a?b=1"),
        ({"header": "x-shop-key"}, "x-shop-key: {}", "/a?b=1"),
        ({"header": "authorization"}, "Authorization: Bearer {}", "/a?b=1"),
        ({"query": "key"}, "x-a: 1", "/a?b=1&key={}"),
    ],
)
@pytest.mark.parametrize("beside", [{}, {"providers": AUTHN["providers"]}], ids=["alone", "beside tokens"])
def test_an_api_key_is_taken_out_as_tokens_are(
    play: Playbook, place: dict[str, str], line: str, target: str, beside: Any
) -> None:
    """And what it claims is told in its place."""
    key, hashed = made("ci", b"\x01" * SECRET_BYTES)
    api_keys = {"keys": [{"id": "ci", "hash": hashed, "claims": {"sub": "ci"}}], **place}
    put(play, authn={**beside, "api_keys": api_keys, "forward": False, "headers": {"x-user": "sub"}})
    recorder = play.worker.recorder
    recorder.keep(True)
    client = asks(play, line.format(key), "X-User: root", target=target.format(key))
    text = heard(play)[1]
    assert status(client) == 200 and key.encode() not in text and text.startswith(b"GET /a?b=1 HTTP/1.1\r\n")
    assert b"x-user: ci" in lines(text) and b"root" not in text
    records = recorder.take(10)
    assert records is not None and key.encode() not in records.lines


def test_an_api_key_selects_as_tokens_do(play: Playbook) -> None:
    key, hashed = made("ci", b"\x01" * SECRET_BYTES)
    rules = [{"match": {"claims": {"sub": "ci"}}, "respond": {"status": 204}}]
    api_keys = {"keys": [{"id": "ci", "hash": hashed, "claims": {"sub": "ci"}}]}
    put(play, authn={"api_keys": api_keys, "required": False}, route={"rules": rules})
    assert status(asks(play, f"x-api-key: {key}")) == 204
    assert status(asks(play, f"x-api-key: {key[:-1]}_")) == 401
    asks(play)
    assert heard(play)


def test_another_scheme_is_no_token(play: Playbook) -> None:
    put(play, authn={**AUTHN, "forward": False})
    asks(play, "Authorization: Basic YTpi")
    assert b"authorization: basic ytpi" in lines(heard(play)[1])


def test_a_retry_goes_to_another_agent_with_the_token(play: Playbook) -> None:
    """Though the instance of this host, which was tried first, had none of it."""
    places = [play.instance("a", agent="here"), play.instance("b", agent="there", via=True)]
    play.put(*places, service=LAMPS, authn=TOLD, balance={"algorithm": "round-robin"}, retry={"on": ["reset"]})
    asks(play, bearer(sub="ann"))
    seen: dict[str, bytes] = {}
    for _ in range(2):
        wire = play.upstream()
        seen[wire.name] = wire.heard.lower()
        wire.ends()
        play.passes(0.5)
    assert b"authorization" not in seen["a"] and b"x-user: ann" in seen["a"]
    assert b"authorization" in seen["b"] and b"x-user" not in seen["b"]


def test_of_two_levels_the_stricter_keeps_the_token(play: Playbook) -> None:
    """And a claim is told that both have verified."""
    wide = {"forward": False, "headers": {"X-USER": "n", "x-n": "n"}}
    levels = {"lamps": {"headers": {"x-user": "sub"}}, "*": wide}
    documents = [parse("authn", key, json.dumps({**AUTHN, **more}).encode()) for key, more in levels.items()]
    presented = Presented([each for each in documents if isinstance(each, Authn)])
    told = presented.told({"sub": "ann", "n": "7"})
    assert told.fields([b"authorization: Bearer x\r\n", b"x-a: 1\r\n"]) == [
        b"x-a: 1\r\n",
        b"x-user: ann\r\n",
        b"x-n: 7\r\n",
    ]


@given(st.text())
@example("a\r\nx-admin: true")
@example(" a ")
@example("  ")
@example("\ud800%0d%0a")
def test_no_claim_ends_a_line(text: str) -> None:
    """It comes out as it went in."""
    from urllib.parse import unquote

    value = in_header(text)
    assert all(0x20 <= byte < 0x7F for byte in value) and value == value.strip()
    assert unquote(value.decode(), errors="surrogatepass") == text
    found = json.loads(base64.urlsafe_b64decode(all_in_header({text: text, "n": Json("[1]")}) + b"=="))
    assert found == {text: text, "n": [1]}


names = st.sampled_from(["session", "Session", " session", "session ", "other", "", "s\u0085", "\u00a0session"])


@settings(max_examples=300)
@given(st.lists(st.tuples(names, st.text('ab=%"', max_size=3)), max_size=5), st.sampled_from([";", "; ", ", ", ";;"]))
def test_what_is_left_of_a_cookie_field_has_no_token(pairs: list[tuple[str, str]], between: str) -> None:
    """As the document's own reading has it; the other cookies are what they were."""
    from policies.request import Request, cookie

    document = parse("authn", "lamps", json.dumps({**AUTHN, "forward": False, "token": {"cookie": "session"}}).encode())
    assert isinstance(document, Authn)
    field = between.join(f"{name}={value}" for name, value in pairs)
    left = Presented([document]).kept(f"cookie: {field}\r\n".encode("latin-1"))
    value = left.partition(b": ")[2].removesuffix(b"\r\n").decode("latin-1")
    before, after = Request(headers={"cookie": field}), Request(headers={"cookie": value})
    assert cookie(after, "session") is None
    for name in {name.strip() for name, _ in pairs} - {"session"}:
        assert cookie(after, name) == cookie(before, name)


# Told to who asks.


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
    from policies.kinds.authn.api_keys import made

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
