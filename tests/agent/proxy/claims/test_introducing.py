"""What an instance is told of people, and what nobody else can say in the mesh's name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.proxy.messages.presented import Presented
from policies.catalogue import parse
from policies.claim import Json
from policies.kinds.authn.api_keys import SECRET_BYTES, made
from policies.kinds.authn.document import Authn
from policies.kinds.authn.values import all_in_header, in_header
from tests.support.claims import AUTHN, LAMPS, TOLD, asks, bearer, heard, jwt, lines, put, status
from tests.support.playbook import Playbook


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
