"""Who may do what: at the agent beside the instance, on one host as over two, and on what is under way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.identity.spiffe import SpiffeId, service_id
from agent.identity.verdict import Identity
from agent.proxy.peer import Proof, peer_at
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.identity import TRUST_DOMAIN
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import CREDENTIALS, STRANGER, PolicyFrame, entrust

LAMPS = "lamps.production"
SHOP = {"rules": [{"name": "the shop", "allow": ["shop.production"]}]}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ADDRESSED = f"X-Shoal-Endpoint: {LAMPS}/lamp"


@pytest.fixture
def play() -> Iterator[Playbook]:
    """An agent with a service that shop.production may call, and shop.production."""
    with Playbook(host="here") as play:
        entrust(play.worker)
        play.put("shop", service="shop.production")
        guard(play, SHOP)
        yield play


def guard(play: Playbook, document: Any, **more: Any) -> None:
    play.put(play.instance("lamp", agent="here"), service=LAMPS, authz=document, **more)


def asks(play: Playbook, *lines: str, first: str = "GET / HTTP/1.1", inbound: bool = False, **more: Any) -> Wire:
    """A request for the lamps."""
    client = play.client(inbound=inbound, **more)
    lines = (first, *(() if any(line.lower().startswith("host:") for line in lines) else (f"Host: {LAMPS}",)), *lines)
    assert client >> "\r\n".join([*lines, "", ""]).encode()
    return client


def denied(play: Playbook, wire: Wire) -> bool:
    """Whether it was, and no instance has seen anything of it."""
    if not wire.heard:
        assert not play.idle
        return False
    assert wire.heard.startswith(b"HTTP/1.1 403 "), wire.heard
    head, _, body = wire.heard.partition(b"\r\n\r\n")
    assert b"x-shoal-policy: authz" in head and b"x-shoal-reason: not allowed" in head
    assert json.loads(body)["reason"] == "not allowed"
    for word in (b"rule", b"policies/", b"default", b"the shop", b"*"):
        assert word not in wire.heard
    assert play.idle
    return True


NAMED = CREDENTIALS.decode().strip()


# Who calls.


@pytest.mark.parametrize(
    ("lines", "passes"),
    [
        ([NAMED], True),
        ([], False),
        (["X-Shoal-Caller: shop.production"], False),
        (["X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1;by=shop.production"], False),
        (["Authorization: Basic c2hvcC5wcm9kdWN0aW9uOnMzY3JldA=="], False),
        (["From: shop.production", "X-Forwarded-Client-Cert: URI=spiffe://x/svc/shop.production"], False),
    ],
)
def test_on_its_own_host_a_caller_is_whose_credentials_are_shown(
    play: Playbook, lines: list[str], passes: bool
) -> None:
    """And no header names one."""
    assert denied(play, asks(play, *lines)) != passes


@pytest.mark.parametrize(
    ("lines", "peer", "passes"),
    [
        (["X-Shoal-Caller: shop.production"], "", True),
        (["X-Shoal-Caller: web.production"], "", False),
        (["X-Shoal-Caller: *"], "", False),
        ([], "", False),
        (["X-Shoal-Caller: shop.production"], STRANGER, False),
        (["X-Shoal-Caller: web.production", "X-Shoal-Caller: shop.production"], STRANGER, False),
    ],
)
def test_agents_are_believed_whom_they_speak_for(play: Playbook, lines: list[str], peer: str, passes: bool) -> None:
    """In plain text, and nobody else is; also where the Host is another service's."""
    more = {"peer": peer} if peer else {}
    assert denied(play, asks(play, *lines, inbound=True, **more)) != passes
    for host in ("shop.production", "nobody", f"{LAMPS}.", LAMPS.upper()):
        with Playbook(host="here") as again:
            again.put("shop", service="shop.production")
            guard(again, SHOP)
            wire = asks(again, f"Host: {host}", ADDRESSED, *lines, inbound=True, **more)
            if not (peer and host in ("nobody", "shop.production")):  # words of a stranger are thrown away
                assert denied(again, wire) != passes


@pytest.mark.parametrize(
    ("principal", "ours", "said", "passes"),
    [
        (service_id(TRUST_DOMAIN, "shop.production"), True, "", True),
        (service_id(TRUST_DOMAIN, "shop.production"), True, "web.production", True),
        (service_id(TRUST_DOMAIN, "web.production"), True, "shop.production", False),
        (service_id("us.shoal", "shop.production"), False, "shop.production", False),
        (SpiffeId(TRUST_DOMAIN, "/agent/h"), True, "shop.production", False),
        (SpiffeId(TRUST_DOMAIN, ""), True, "shop.production", False),
    ],
)
def test_what_is_proven_counts(play: Playbook, principal: SpiffeId, ours: bool, said: str, passes: bool) -> None:
    """And nothing that is said besides."""
    proof = Proof(Identity(principal, "", 0, 2e9, ()), LAMPS, ours=ours)
    guard(play, SHOP)
    wire = play.client(inbound=True)
    connection = play.connection(wire)
    stream = connection.stream
    assert stream is not None
    stream.peer = peer_at("127.0.0.1", play.worker.agents, proof)
    said_line = f"X-Shoal-Caller: {said}\r\n" if said else ""
    assert wire >> f"GET / HTTP/1.1\r\nHost: {LAMPS}\r\n{ADDRESSED}\r\n{said_line}\r\n".encode()
    assert denied(play, wire) != passes


def test_an_id_is_what_is_proven_or_what_credentials_stand_for(play: Playbook) -> None:
    """On one host nobody shows a certificate: a rule by id means the same there."""
    guard(play, {"rules": [{"allow": [f"spiffe://{TRUST_DOMAIN}/svc/*.production"]}]})
    assert denied(play, asks(play, NAMED)), "without a trust domain there are no ids"
    play.worker.security.trust_domain = TRUST_DOMAIN
    assert not denied(play, asks(play, NAMED))
    assert denied(play, asks(play)) if play.upstream("lamp") else True
    said = asks(play, "X-Shoal-Caller: shop.production", inbound=True)
    assert denied(play, said), "what an agent says in plain text proves nothing"


# What is asked for.

TRICKS = [
    "/admin",
    "//admin",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/.%2e/admin",
    "/%61dmin",
    "/admin;x=1",
    "/admin;/y",
    "/x/..;/admin",
    "/x/..%2fadmin",
    "/x/..%5cadmin",
    "/admin%2f",
    "/admin%2Fy",
    "/%2fadmin",
    "/admin/",
    "/admin/../admin",
    "/admin?x",
    "/x/../../admin",
    "/x\\..\\admin",
    f"http://{LAMPS}/admin",
    f"http://{LAMPS}/x/../admin",
    f"http://{LAMPS}:80//admin",
    f"HTTP://{LAMPS.upper()}/admin",
]
CLOSED = {"rules": [{"deny": "anybody", "match": {"path": {"prefix": "/admin"}}}, {"allow": "anybody"}]}
OPEN = {"rules": [{"allow": "anybody", "match": {"path": {"prefix": "/x"}}}]}


@pytest.mark.parametrize("keeps", [{}, {"path": {"action": "keep"}}, {"path": {"escaped_slashes": "decode"}}])
@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("target", TRICKS)
def test_no_spelling_leads_round(play: Playbook, target: str, inbound: bool, keeps: dict[str, Any]) -> None:
    """Whether paths are closed, or all others are; whatever `path` makes of them."""
    for document in (CLOSED, OPEN):
        guard(play, document, **keeps)
        wire = asks(play, first=f"GET {target} HTTP/1.1", inbound=inbound)
        assert wire.heard.startswith(b"HTTP/1.1 40"), "not let in"
        assert play.idle


@pytest.mark.parametrize("target", ["/x", "/x/admin", "/x?at=/admin", "/x/%61", "/x/y;v=1"])
def test_what_is_open_is(play: Playbook, target: str) -> None:
    """As before."""
    guard(play, OPEN)
    assert not denied(play, asks(play, first=f"GET {target} HTTP/1.1"))


@pytest.mark.parametrize("host", [LAMPS, LAMPS.upper(), f"{LAMPS}.", f"{LAMPS}:80", f"{LAMPS}.:15001"])
def test_no_spelling_of_the_host_leads_round(play: Playbook, host: str) -> None:
    """Each is the service, or none."""
    wire = asks(play, f"Host: {host}")
    assert wire.heard.startswith((b"HTTP/1.1 403", b"HTTP/1.1 404")) and play.idle


@pytest.mark.parametrize(
    "line",
    [
        "X-HTTP-Method-Override: DELETE",
        "x-http-method: delete",
        "X-Method-Override: PUT\r\nX-Method-Override: DELETE",
        "X_HTTP_Method_Override: DELETE",
    ],
)
def test_no_other_method_leads_round(play: Playbook, line: str) -> None:
    """One that frameworks would take instead of the request's own has to be allowed, too."""
    guard(play, {"rules": [{"deny": "anybody", "match": {"method": ["DELETE"]}}, {"allow": "anybody"}]})
    assert not denied(play, asks(play, first="POST / HTTP/1.1"))
    play.upstream("lamp")
    assert denied(play, asks(play, line, first="POST / HTTP/1.1"))
    assert denied(play, asks(play, first="POST /?a=1&_method=DELETE HTTP/1.1"))


def test_what_a_route_makes_of_a_request_is_what_is_judged(play: Playbook) -> None:
    """Its path, its Host and its headers, as the instance gets them; on one host as over two."""
    route: dict[str, Any] = {"rules": [{"match": {"path": {"prefix": "/x"}}, "rewrite": {"path": "/admin"}}]}
    guard(play, OPEN, route=route)
    assert denied(play, asks(play, first="GET /x/y HTTP/1.1"))
    route = {"rules": [{"headers": {"request": {"set": {"x-role": "guest"}, "remove": ["x-test"]}}}]}
    by_role = {"rules": [{"allow": "anybody", "match": {"headers": {"x-role": "admin"}}}]}
    guard(play, by_role, route=route)
    assert denied(play, asks(play, "X-Role: admin"))
    guard(play, {"rules": [{"allow": "anybody", "match": {"headers": {"x-role": "guest"}}}]}, route=route)
    assert not denied(play, asks(play, "X-Role: admin"))


# By which ways.


def test_a_way_that_leads_there_meets_the_rules_too(play: Playbook) -> None:
    """Routes, fallbacks, copies: each as who called."""
    for document in (
        {"route": {"rules": [{"split": [{"service": LAMPS}]}]}},
        {"route": {"rules": [{"split": [{"service": LAMPS}]}]}, "retry": {"attempts": 3}},
    ):
        play.put("pet", service="pets.production", **document)
        assert denied(play, asks(play, "Host: pets.production"))
        assert not denied(play, asks(play, "Host: pets.production", NAMED))
        play.upstream("lamp")
    play.put("pet", service="pets.production", shadow={"copies": [{"to": LAMPS}]})
    asks(play, "Host: pets.production")
    play.upstream("pet")
    play.passes(0.2)
    assert play.idle, "a copy came to an instance of this host that its caller may not call"
    asks(play, "Host: pets.production", NAMED)
    play.passes(0.2)
    assert {play.dialled().name, play.dialled().name} == {"pet", "lamp"}


def test_at_the_callers_agent_as_well(play: Playbook) -> None:
    """Where the document says so: a denied request makes no hop."""
    far = play.instance("far", agent="there", via=True)
    play.put(far, service=LAMPS, authz=SHOP)
    asks(play)
    assert not play.idle, "the other agent asks"
    play.upstream("far")
    play.put(far, service=LAMPS, authz={**SHOP, "outbound": True})
    assert denied(play, asks(play))
    asks(play, NAMED)
    assert play.upstream("far")
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authorized == {f"{LAMPS}\tdefault\tdenied": 1}, "what passes is counted where it arrives"


def test_every_level_has_to_allow(play: Playbook) -> None:
    """Whatever the order in which they come, and which is more specific."""
    text = {
        LAMPS: b'{"rules": [{"allow": "anybody"}]}',
        "*.production": json.dumps(SHOP).encode(),
        "*": b'{"rules": [{"name": "no debugging", "deny": "anybody", "match": {"path": {"prefix": "/debug"}}}],'
        b' "default": "allow"}',
    }
    levels = [PolicyFrame(key, n + 2, text[key]) for n, key in enumerate(text)]
    frame = PolicyFrame(LAMPS, 2, text[LAMPS], wider=tuple(levels[1:]))
    guard(play, frame)
    assert denied(play, asks(play))
    assert denied(play, asks(play, NAMED, first="GET /debug HTTP/1.1"))
    assert not denied(play, asks(play, NAMED))
    told = explain(play.worker, Explain(f"http://{LAMPS}/debug", caller="shop.production"))["decisions"][-1]
    assert (told["policy"], told["revision"]) == ("authz/*", 4)
    assert told["reason"] == "policies/authz/*: by the rule no debugging"


def test_what_nobody_knows_denies(play: Playbook) -> None:
    """At any level."""
    guard(play, PolicyFrame("*.production", 3, b"", "nobody knows"))
    wire = asks(play, NAMED)
    assert wire.heard.startswith(b"HTTP/1.1 503") and play.idle
    guard(play, PolicyFrame(LAMPS, 3, json.dumps(SHOP).encode(), wider=(PolicyFrame("*", 2, b"", "nobody knows"),)))
    wire = asks(play, NAMED)
    assert wire.heard.startswith(b"HTTP/1.1 503") and play.idle


# Told, counted, watched.


def test_who_operates_is_told(play: Playbook) -> None:
    """Rule, document and revision; in records and figures, and in no answer."""
    play.worker.recorder.keep(True)
    assert denied(play, asks(play, "X-Shoal-Explain: 1"))
    records = play.worker.recorder.take(10)
    assert records is not None and f"policies/authz/{LAMPS}: no rule allows it".encode() in records.lines
    asks(play, NAMED)
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authorized == {f"{LAMPS}\tdefault\tdenied": 1, f"{LAMPS}\tthe shop\tallowed": 1}
    assert stats.refused == {"authz": 1}
    told = explain(play.worker, Explain(f"http://{LAMPS}/", caller="shop.production"))["decisions"]
    entry = next(each for each in told if each["policy"].startswith("authz/"))
    assert entry["decision"] == "allowed by the shop" and entry["revision"] == play.revision


def test_a_watched_document_denies_nobody(play: Playbook) -> None:
    """And takes nothing out of force."""
    play.worker.recorder.keep(True)
    play.put(play.instance("lamp", agent="here"), service=LAMPS, audits={"authz": SHOP})
    assert not denied(play, asks(play))
    play.upstream("lamp") >> b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    records = play.worker.recorder.take(10)
    assert records is not None and f'"verdicts":["audit: authz/{LAMPS}: refused by default"]'.encode() in records.lines
    stats = play.worker.table.services[LAMPS].stats
    assert list(stats.audited()) == [("authz", LAMPS, "passed", "refused by default")]
    assert stats.authorized == {}


def test_who_is_denied_takes_nothing_from_the_services_limits(play: Playbook) -> None:
    """A stranger cannot use up what others may ask."""
    guard(play, SHOP, ratelimit={"limits": [{"name": "all", "rate": "1/h", "side": "service"}]})
    for _ in range(3):
        assert denied(play, asks(play))
    assert not denied(play, asks(play, NAMED))


# What is under way.

UPGRADE = "Connection: upgrade\r\nUpgrade: websocket"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
NOBODY: dict[str, Any] = {"rules": []}


@pytest.mark.parametrize("inbound", [False, True])
def test_a_websocket_ends_when_it_is_not_allowed_any_more(play: Playbook, inbound: bool) -> None:
    """Both sides of it, at once; counted, and recorded with the rule."""
    play.worker.recorder.keep(True)
    caller = "X-Shoal-Caller: shop.production" if inbound else NAMED
    client = asks(play, caller, UPGRADE, inbound=inbound)
    up = play.upstream("lamp")
    assert up >> SWITCHED
    assert client >> b"hello" and client.heard.startswith(b"HTTP/1.1 101") and up.heard.endswith(b"hello")
    guard(play, {**SHOP, "description": "the same"})
    assert client >> b" again" and up.heard.endswith(b"hello again") and not client.closed
    guard(play, NOBODY)
    assert client.closed and up.closed
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authorized[f"{LAMPS}\tdefault\tended"] == 1 and stats.active == 0
    records = play.worker.recorder.take(10)
    assert records is not None and b"no rule allows it, since its rules have changed" in records.lines


def test_a_long_answer_ends_so_that_it_does_not_look_whole(play: Playbook) -> None:
    """It was begun."""
    client = asks(play, NAMED)
    up = play.upstream("lamp")
    assert up >> b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"
    guard(play, NOBODY)
    assert client.closed and up.closed and not client.heard.endswith(b"0\r\n\r\n")


def test_a_long_request_is_answered(play: Playbook) -> None:
    """403, as there is still room for it; the instance hears no more."""
    client = asks(play, NAMED, "Content-Length: 100", first="POST / HTTP/1.1")
    up = play.upstream("lamp")
    assert client >> b"x" * 50
    guard(play, NOBODY)
    assert b" 403 " in client.heard and b"not allowed" in client.heard and up.closed
    assert b"x-shoal-unsent" not in client.heard


def test_who_is_allowed_by_the_new_rules_stays(play: Playbook) -> None:
    """Whatever changed around him: other services', other rules, the rule that allowed him."""
    client = asks(play, NAMED, UPGRADE)
    up = play.upstream("lamp")
    assert up >> SWITCHED
    play.put("pet", service="pets.production", authz=NOBODY)
    guard(play, {"rules": [{"deny": ["web.production"]}, {"name": "other", "allow": ["*.production"]}]})
    guard(play, SHOP, timeout={"request": "1s"})
    play.put(play.instance("lamp", agent="here"), service=LAMPS)
    assert not client.closed and client >> b"x" and up.heard.endswith(b"x")


def test_rules_by_path_and_header_are_asked_of_the_head_that_it_came_with(play: Playbook) -> None:
    """Also behind a route that has rewritten it."""
    route = {"rules": [{"match": {"path": {"prefix": "/ws"}}, "rewrite": {"path": "/socket"}}]}
    guard(play, {"rules": [{"allow": "anybody"}]}, route=route)
    one = asks(play, UPGRADE, "X-Room: 1", first="GET /ws/1 HTTP/1.1")
    assert play.upstream("lamp") >> SWITCHED
    two = asks(play, UPGRADE, "X-Room: 2", first="GET /ws/2 HTTP/1.1")
    assert play.upstream("lamp") >> SWITCHED
    by_path = {"rules": [{"allow": "anybody", "match": {"path": {"prefix": "/socket"}, "headers": {"x-room": "2"}}}]}
    guard(play, by_path, route=route)
    assert one.closed and not two.closed


def test_what_another_agent_delivers_is_its_to_end(play: Playbook) -> None:
    """The caller's agent goes on until it hears of it."""
    far = play.instance("far", agent="there", via=True)
    play.put(far, service=LAMPS, authz=SHOP)
    client = asks(play, NAMED, UPGRADE)
    assert play.upstream("far") >> SWITCHED
    play.put(far, service=LAMPS, authz=NOBODY)
    assert not client.closed


# Levels, in whatever order.

DECIDING: dict[str, dict[str, Any]] = {
    "closed": {"rules": []},
    "the shop's": SHOP,
    "no admin": {"rules": [{"deny": "anybody", "match": {"path": {"prefix": "/admin"}}}], "default": "allow"},
    "open": {"rules": [{"allow": "anybody"}]},
    "no strangers": {"rules": [{"deny": "anonymous"}, {"allow": "anybody", "match": {"method": ["GET"]}}]},
}
CHOSEN = st.lists(st.sampled_from(sorted(DECIDING)), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(
    CHOSEN.flatmap(lambda names: st.tuples(st.just(names), st.permutations(range(len(names))))),
    st.permutations((LAMPS, "*.production", "*")),
    st.sampled_from([[], [NAMED]]),
    st.sampled_from(["GET /", "GET /admin", "PUT /"]),
)
def test_any_level_that_denies_wins(
    chosen: tuple[list[str], list[int]], keys: list[str], lines: list[str], first: str
) -> None:
    """Whichever it is, in whatever order they come, and whatever stands at which."""
    names, order = chosen

    def passes(*documents: dict[str, Any]) -> bool:
        with Playbook(host="here") as play:
            entrust(play.worker)
            play.put("shop", service="shop.production")
            levels = [PolicyFrame(keys[n], n + 2, json.dumps(each).encode()) for n, each in enumerate(documents)]
            levels = [levels[n] for n in order] if len(levels) == len(order) else levels
            guard(play, PolicyFrame(levels[0].key, levels[0].revision, levels[0].text, wider=tuple(levels[1:])))
            return not denied(play, asks(play, *lines, first=f"{first} HTTP/1.1"))

    assert passes(*[DECIDING[name] for name in names]) == all(passes(DECIDING[name]) for name in names)


def test_a_condition_that_cannot_be_judged_is_named_to_who_operates(play: Playbook) -> None:
    """In the record, in an explanation, in figures; in no answer."""
    pytest.importorskip("cel_expr_python")
    few = {"rules": [{"name": "few", "allow": "anybody", "when": 'request.headers["x-tier"] == "a"'}]}
    guard(play, few)
    play.worker.recorder.keep(True)
    assert denied(play, asks(play, "X-Shoal-Explain: 1"))
    records = play.worker.recorder.take(10)
    assert records is not None and b"few: its condition cannot be judged: " in records.lines
    stats = play.worker.table.services[LAMPS].stats
    assert stats.authorized == {f"{LAMPS}\tdefault\tdenied": 1, f"{LAMPS}\tfew\tfailed": 1}
    told = explain(play.worker, Explain(f"http://{LAMPS}/"))["decisions"]
    entry = next(each for each in told if each["policy"].startswith("authz/"))
    assert "few: its condition cannot be judged: " in entry["reason"] and "x-tier" in entry["reason"]
