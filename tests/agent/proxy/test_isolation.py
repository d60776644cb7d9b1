"""Services that are not there for who calls: whatever is tried, it is as with a name that nobody has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from agent.identity.spiffe import service_id
from agent.identity.verdict import Identity
from agent.proxy.peer import Peer, Proof
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.identity import TRUST_DOMAIN
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import CREDENTIALS, PolicyFrame, entrust

HIDDEN = "secret.staging"
OTHERS = {"allow": ["*.staging"]}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def play() -> Iterator[Playbook]:
    """A service that shop.production sees, and one that it does not."""
    with Playbook(host="here") as play:
        entrust(play.worker)
        play.put("shop", service="shop.production")
        play.put("one")
        hide(play, OTHERS)
        yield play


def hide(play: Playbook, document: Any, **more: Any) -> None:
    play.put(play.instance("secret", agent="here"), service=HIDDEN, isolation=document, **more)


def said(wire: Wire) -> bytes:
    """An answer, without what is another each time."""
    heard, wire.heard = wire.heard, b""
    assert heard, "no answer"
    return re.sub(rb"date: [^\r]*|\"request_id\":\"[^\"]*\"", b"", heard)


def asked(play: Playbook, head: str, *, inbound: bool = False, peer: str = "") -> bytes:
    """What the head of a request gets; `@` stands for the name that is asked for."""
    client = play.client(inbound=inbound, **({"peer": peer} if peer else {}))
    assert client >> head.replace("\n", "\r\n").encode() + b"\r\n\r\n"
    return said(client)


def alike(play: Playbook, head: str, **more: Any) -> None:
    """The service gets what a name gets that nobody has, to the last byte."""
    hidden = asked(play, head.replace("@", HIDDEN), **more)
    unknown = asked(play, head.replace("@", "nobody.staging"), **more)
    assert hidden.replace(HIDDEN.encode(), b"@") == unknown.replace(b"nobody.staging", b"@").replace(
        b"content-length: %d" % length(unknown), b"content-length: %d" % length(hidden)
    )
    assert b" 404 " in hidden and b"x-shoal-policy: service" in hidden and b"isolation" not in hidden
    assert play.idle


def length(answer: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", answer)
    assert found
    return int(found[1])


NAMED = CREDENTIALS.decode().strip()
HEADS = {
    "anonymous": "GET / HTTP/1.1\nHost: @",
    "another service": f"GET / HTTP/1.1\nHost: @\n{NAMED}",
    "a header that names another": "GET / HTTP/1.1\nHost: @\nX-Shoal-Caller: web.staging",
    "and one beside credentials": f"GET / HTTP/1.1\nHost: @\n{NAMED}\nX-Shoal-Caller: web.staging",
    "spelled otherwise": "GET / HTTP/1.1\nHost: @.:80",
    "absolute": "GET http://@/ HTTP/1.1\nHost: pets.production",
    "absolute, with another Host": "GET http://@:80/ HTTP/1.1\nHost: nobody.staging",
    "explained": "GET / HTTP/1.1\nHost: @\nX-Shoal-Explain: 1",
    "as a hop": "GET / HTTP/1.1\nHost: @\nX-Shoal-Endpoint: secret.staging/secret\nX-Shoal-Replay: 1",
    "as a copy": "GET / HTTP/1.1\nHost: @\nX-Shoal-Shadow: 1\nX-Shoal-Priority: high",
    "options": "OPTIONS / HTTP/1.1\nHost: @\nMax-Forwards: 0",
    "trace": "TRACE / HTTP/1.1\nHost: @\nMax-Forwards: 0",
    "a path that is refused": "GET /a/%2e%2e/../.. HTTP/1.1\nHost: @",
    "a body": "POST / HTTP/1.1\nHost: @\nContent-Length: 0\nExpect: 100-continue",
    "an upgrade": "GET / HTTP/1.1\nHost: @\nConnection: upgrade\nUpgrade: websocket",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_it_is_an_unknown_name(play: Playbook, head: str) -> None:
    """To whoever is not allowed, by whatever way it is asked for. Who operates knows better."""
    hide(play, OTHERS, path={"action": "refuse"})
    alike(play, head)
    stats = play.worker.table.services[HIDDEN].stats
    assert stats.refused == {"isolation": 1} and stats.active == 0


def test_upper_case(play: Playbook) -> None:
    """Is the same name."""
    assert b" 404 " in asked(play, "GET / HTTP/1.1\nHost: SECRET.Staging") and play.idle


@pytest.mark.parametrize("peer", ["127.0.0.66", "203.0.113.7"])
@pytest.mark.parametrize("caller", ["", "\nX-Shoal-Caller: web.staging", f"\n{NAMED}"])
def test_who_is_no_agent_is_not_known(play: Playbook, peer: str, caller: str) -> None:
    """At the instance's agent, whatever it says of itself."""
    for head in ("GET / HTTP/1.1\nHost: @", "OPTIONS * HTTP/1.1\nHost: @\nMax-Forwards: 0"):
        alike(play, head + caller, inbound=True, peer=peer)


@pytest.mark.parametrize("caller", ["", "shop.production", "staging", "web.staging.production", "*.staging"])
def test_agents_are_asked_whom_they_speak_for(play: Playbook, caller: str) -> None:
    """Also where the Host is another service's, as behind a rewriting route."""
    words = f"\nX-Shoal-Endpoint: {HIDDEN}/secret" + (f"\nX-Shoal-Caller: {caller}" if caller else "")
    assert b" 404 " in asked(play, f"GET / HTTP/1.1\nHost: {HIDDEN}" + words, inbound=True)
    assert b" 404 " in asked(play, "GET / HTTP/1.1\nHost: pets.production" + words, inbound=True)
    assert play.idle
    client = play.client(inbound=True)
    assert (
        client
        >> (
            f"GET / HTTP/1.1\r\nHost: pets.production\r\nX-Shoal-Endpoint: {HIDDEN}/secret\r\n"
            "X-Shoal-Caller: web.staging\r\n\r\n"
        ).encode()
    )
    assert play.upstream("secret")


@pytest.mark.parametrize("said", ["web.staging", "shop.production", ""])
@pytest.mark.parametrize(
    ("proven", "ours", "passes"),
    [
        ("web.staging", True, True),
        ("shop.production", True, False),
        ("web.staging", False, False),
    ],
)
def test_what_is_proven_counts_and_nothing_that_is_said(
    play: Playbook, said: str, proven: str, ours: bool, passes: bool
) -> None:
    """By whatever address; who is of another trust domain sees what is exported, and this is not."""
    client = play.client(inbound=True, peer="203.0.113.7")
    stream = play.connection(client).stream
    assert stream is not None
    domain = TRUST_DOMAIN if ours else "partner.example"
    identity = Identity(service_id(domain, proven), "web-1", 7, 2e9, ())
    proof = Proof(identity, HIDDEN, ours=ours, foreign=not ours)
    stream.peer = Peer("203.0.113.7", play.worker.agents, proof)
    word = f"X-Shoal-Caller: {said}\r\n" if said else ""
    assert client >> f"GET / HTTP/1.1\r\nHost: {HIDDEN}\r\n{word}\r\n".encode()
    if passes:
        assert play.upstream("secret")
    else:
        says = b"404 Not Found\r\n...x-shoal-policy: service" if ours else b"421 ...\r\n...x-shoal-policy: export"
        assert client << b"HTTP/1.1 %b\r\n..." % says and play.idle


@pytest.mark.parametrize(
    ("document", "passes"),
    [
        ({"allow": ["shop.production"]}, True),
        ({"allow": ["*.production"]}, True),
        ({"allow": ["*"]}, True),
        ({"allow": [], "anonymous": True}, False),
        ({"allow": []}, False),
    ],
)
def test_who_is_allowed(play: Playbook, document: Any, passes: bool) -> None:
    """By its credentials."""
    hide(play, document)
    client = play.client()
    assert client >> f"GET / HTTP/1.1\r\nHost: {HIDDEN}\r\n{NAMED}\r\n\r\n".encode()
    if passes:
        assert play.upstream("secret") >> OK
        assert b"200 OK" in said(client)
    else:
        assert b" 404 " in said(client) and play.idle


@pytest.mark.parametrize("narrow", [0, 1, 2])
def test_each_level_has_to_allow_it(play: Playbook, narrow: int) -> None:
    """A wider one is not lifted by a more specific one, nor the other way round."""
    keys = (HIDDEN, "*.staging", "*")
    frames = [
        PolicyFrame(key, n, json.dumps({"allow": [] if n == narrow else ["*"]}).encode()) for n, key in enumerate(keys)
    ]
    hide(play, PolicyFrame(keys[0], 0, frames[0].text, "", tuple(frames[1:])))
    assert b" 404 " in asked(play, f"GET / HTTP/1.1\nHost: {HIDDEN}\n{NAMED}")
    told = explain(play.worker, Explain(url=f"http://{HIDDEN}/", caller="shop.production"))
    assert told["status"] == 404
    assert told["decisions"][0]["policy"] == f"isolation/{keys[narrow]}"
    assert told["decisions"][0]["reason"].endswith(f"for shop.production, by policies/isolation/{keys[narrow]}")


# Ways that lead there, of a service that the caller sees.

TO = {"to": HIDDEN}
FOREVER = "2999-01-01T00:00:00Z"


def led(play: Playbook, caller: str = NAMED) -> bytes:
    return asked(play, f"GET / HTTP/1.1\nHost: pets.production\n{caller}")


def test_a_route_that_leads_there(play: Playbook) -> None:
    """Leads to a service that is not in this mesh."""
    play.put("one", route={"rules": [{"split": [{"service": HIDDEN, "weight": 100}]}]})
    answer = led(play)
    assert b" 503 " in answer and b"the route leads to secret.staging, and no such service is in this mesh" in answer
    assert play.idle
    hide(play, {"allow": ["*"]})
    client = play.client()
    assert client >> f"GET / HTTP/1.1\r\nHost: pets.production\r\n{NAMED}\r\n\r\n".encode()
    assert play.upstream("secret")


def test_a_split_whose_others_take_over(play: Playbook) -> None:
    """Has none there."""
    split = [{"service": "nobody.production", "weight": 50}, {"service": HIDDEN, "weight": 50}]
    play.put("one", route={"rules": [{"split": split, "empty": "others"}]})
    assert all(b" 503 " in led(play) for _ in range(9)) and play.idle


def test_a_fallback(play: Playbook) -> None:
    """Leads nowhere."""
    play.put("one", breaker={"trip": {"consecutive": 1}, "fallback": {"service": HIDDEN}}, retry={"attempts": 1})
    client = play.client()
    assert client >> f"GET / HTTP/1.1\r\nHost: pets.production\r\n{NAMED}\r\n\r\n".encode()
    assert play.upstream("one") >> OK.replace(b"200 OK", b"500 No")
    assert b" 503 " in led(play) and play.idle


def test_a_way_out_of_an_overload(play: Playbook) -> None:
    """Is none."""
    play.put(
        play.instance("one", agent="here"),
        shed={"concurrency": 1, "instead": [{"service": HIDDEN}, {"respond": {"status": 418}}]},
    )
    first = play.client()
    assert first >> f"GET / HTTP/1.1\r\nHost: pets.production\r\n{NAMED}\r\n\r\n".encode()
    assert play.upstream("one")
    assert b" 418 " in led(play) and play.idle


def test_a_copy(play: Playbook) -> None:
    """Is not sent."""
    play.put("one", shadow={"copies": [{"to": HIDDEN}]})
    client = play.client()
    assert client >> f"GET / HTTP/1.1\r\nHost: pets.production\r\n{NAMED}\r\n\r\n".encode()
    assert play.upstream("one") >> OK
    play.passes(1)
    assert play.idle and play.worker.table.services["pets.production"].stats.copies == {"dropped": 1}


# And the rest.


def test_a_tunnel(play: Playbook) -> None:
    """Is answered as an unknown name; to nobody who does not get out anyhow it says that services have none."""
    assert asked(play, f"CONNECT {HIDDEN}:80 HTTP/1.1\nHost: {HIDDEN}:80") == asked(
        play, "CONNECT nobody.staging:80 HTTP/1.1\nHost: nobody.staging:80"
    )


def test_wrong_credentials_come_first(play: Playbook) -> None:
    """As with any service."""
    wrong = "\nProxy-Authorization: Basic eDp5"
    assert b" 407 " in asked(play, f"GET / HTTP/1.1\nHost: {HIDDEN}" + wrong)


def test_what_is_only_watched_hides_nothing(play: Playbook) -> None:
    """It is counted, once by each agent."""
    hide(play, {**OTHERS, "mode": "audit"})
    for _ in range(2):
        client = play.client()
        assert client >> f"GET / HTTP/1.1\r\nHost: {HIDDEN}\r\n{NAMED}\r\n\r\n".encode()
        assert play.upstream("secret") >> OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        assert b" 200 " in said(client)
    assert play.worker.table.services[HIDDEN].stats.audited() == {("isolation", HIDDEN, "passed", "refused"): 2}
    play.put("one", route={"rules": [{"split": [{"service": HIDDEN, "weight": 100}]}]})
    client = play.client()
    assert client >> f"GET / HTTP/1.1\r\nHost: pets.production\r\n{NAMED}\r\n\r\n".encode()
    assert play.upstream("secret")


def test_without_a_document(play: Playbook) -> None:
    """There is no row to walk."""
    assert play.worker.table.services["pets.production"].plan.resolving == ()


# Who gets out of the mesh: what he may not see is asked for outside, as what nobody has.

PROXIED = {
    "absolute": "GET http://@/ HTTP/1.1\nHost: @",
    "with a port": "GET http://@:8080/ HTTP/1.1\nHost: pets.production",
    "upper case": "GET http://@/ HTTP/1.1\nHost: @".replace("@", "X.@"),
    "post": "POST http://@/ HTTP/1.1\nHost: @\nContent-Length: 2",
    "options": "OPTIONS http://@/ HTTP/1.1\nHost: @\nMax-Forwards: 0",
    "explained": "GET http://@/ HTTP/1.1\nHost: @\nX-Shoal-Explain: 1",
    "a path that is refused": "GET http://@/%2e%2e/.. HTTP/1.1\nHost: @",
    "an upgrade": "GET http://@/ HTTP/1.1\nHost: @\nConnection: upgrade\nUpgrade: websocket",
    "connect": "CONNECT @:443 HTTP/1.1\nHost: @:443",
    "connect without a port": "CONNECT @ HTTP/1.1\nHost: @",
}
NOT_OUT = {
    "anonymous": "GET http://@/ HTTP/1.1\nHost: @",
    "connect, anonymous": "CONNECT @:443 HTTP/1.1\nHost: @:443",
    "by Host": f"GET / HTTP/1.1\nHost: @\n{NAMED}",
    "a lie": f"GET http://@/ HTTP/1.1\nHost: @\nProxy-Authorization: Basic {'x' * 8}",
    "in a circle": f"GET http://@/ HTTP/1.1\nHost: @\n{NAMED}\nVia: {', '.join(['1.1 shoal'] * 12)}",
}
UNKNOWN = "nobodyx.staging"
"""As long as the other."""


class Names:
    """DNS: who was asked for; each has the same to say of everybody."""

    def __init__(self, addresses: list[str], silent: bool = False) -> None:
        self.addresses = addresses
        self.silent = silent
        self.asked: list[tuple[str, int]] = []

    def resolve(self, name: str, port: int, done: Any) -> None:
        self.asked.append((name, port))
        if not self.silent:
            done(self.addresses, "no such name")


def seen(play: Playbook, name: str, head: str, names: Names) -> list[Any]:
    """All that can be seen of a request, by who makes it and by who stands outside; without the name."""
    play.worker.foreign.resolve = names.resolve  # type: ignore[method-assign]
    names.asked.clear()
    client = play.client()
    said = head.replace("@", name).replace("\n", "\r\n").encode() + b"\r\n\r\n"
    said += b"hi" if b"Content-Length: 2" in said else b""
    assert client >> said
    found: list[Any] = [[(host.replace(name, "@"), port) for host, port in names.asked]]
    if not play.idle:
        up = play.upstream()
        found.append(up.heard.replace(name.encode(), b"@"))
        up >> OK
    found.append(re.sub(rb"date: [^\r]*|\"request_id\":\"[^\"]*\"", b"", client.heard).replace(name.encode(), b"@"))
    play.passes(10.0)
    found.append((client.heard.count(b"HTTP/1.1"), client.heard[:12], client.closed, client.finished, play.idle))
    return found


def without_names(found: list[Any]) -> list[Any]:
    """Lengths of texts that have the name in them are the name's, which are equal here."""
    assert len(UNKNOWN) == len(HIDDEN) + 1
    return [re.sub(rb"content-length: \d+", b"", each) if isinstance(each, bytes) else each for each in found]


@pytest.mark.parametrize("head", [*PROXIED.values(), *NOT_OUT.values()], ids=[*PROXIED, *NOT_OUT])
@pytest.mark.parametrize("addresses", [["192.0.2.1"], [], ["169.254.169.254"]], ids=["found", "not found", "metadata"])
@pytest.mark.parametrize("egress", [None, {"allow": ["api.example.com"]}, {"allow": ["*"]}], ids=["", "narrow", "all"])
def test_nothing_tells_it_from_a_name_that_nobody_has(head: str, addresses: list[str], egress: Any) -> None:
    """Status, reason, fields, body, who is asked for its address, what is sent there, and when it ends."""
    if head in PROXIED.values():
        head += f"\n{NAMED}"
    found = []
    for name in (HIDDEN, UNKNOWN):
        with Playbook(host="here") as play:
            entrust(play.worker)
            play.put("one")
            play.put("shop", service="shop.production", **({"egress": egress} if egress else {}))
            hide(play, OTHERS, path={"action": "refuse"}, tls={"mtls": "strict"}, timeout={"request": "1s"})
            found.append(without_names(seen(play, name, head, Names(addresses))))
    assert found[0] == found[1]
    assert "isolation" not in str(found[0])


def test_a_name_server_that_is_silent_is_waited_for(play: Playbook) -> None:
    """As long for either."""
    head = f"GET http://@/ HTTP/1.1\nHost: @\n{NAMED}"
    hide(play, OTHERS, timeout={"request": "1s"})
    names = Names([], silent=True)
    hidden, unknown = seen(play, HIDDEN, head, names), seen(play, UNKNOWN, head, names)
    assert hidden == unknown and hidden[1] == b"" and hidden[2][1] == b"HTTP/1.1 504"


def test_who_operates_sees_that_it_was_refused(play: Playbook) -> None:
    """Counted once for each request, and none is under way."""
    names = Names(["192.0.2.1"])
    for n, head in enumerate((PROXIED["absolute"], PROXIED["connect"], PROXIED["explained"]), 1):
        seen(play, HIDDEN, f"{head}\n{NAMED}", names)
        stats = play.worker.table.services[HIDDEN].stats
        assert stats.refused == {"isolation": n} and stats.active == 0


@pytest.mark.parametrize("silent", [False, True])
def test_what_comes_to_nothing_outside_is_recorded_as_isolation(play: Playbook, silent: bool) -> None:
    """With the service and the document, as it is by `Host`; what is answered outside has come of that."""
    for name, head in PROXIED.items():
        if name in ("a path that is refused", "upper case", "connect without a port"):
            continue
        seen(play, HIDDEN, f"{head}\n{NAMED}", Names([], silent=silent))
        frame = play.worker.audit.take(10)
        assert frame is not None, name
        told = json.loads(frame.lines)
        assert (told["event"], told["data"]["service"], told["data"]["caller"]) == (
            "isolation.denied", HIDDEN, "shop.production"), name  # fmt: skip
        assert told["data"]["policy"] == f"isolation/{HIDDEN}" and told["data"]["revision"] > 0
    assert not play.worker.refused, "and it is counted once"
    seen(play, HIDDEN, f"{PROXIED['absolute']}\n{NAMED}", Names(["192.0.2.1"]))
    assert play.worker.audit.take(10) is None


def test_who_sees_it_is_led_there(play: Playbook) -> None:
    """By proxy form too, and no name server is asked; CONNECT is for what is outside."""
    hide(play, {"allow": ["*"]})
    names = Names(["192.0.2.1"])
    found = seen(play, HIDDEN, f"{PROXIED['absolute']}\n{NAMED}", names)
    assert found[0] == [] and b"x-shoal-caller: shop.production" in found[1]
    assert b" 405 " in seen(play, HIDDEN, f"{PROXIED['connect']}\n{NAMED}", names)[1]


INBOUND = {
    "named": "GET / HTTP/1.1\nHost: @",
    "absolute": "GET http://@/ HTTP/1.1\nHost: @",
    "an instance": "GET / HTTP/1.1\nHost: @\nX-Shoal-Endpoint: @/secret",
    "a caller": "GET / HTTP/1.1\nHost: @\nX-Shoal-Caller: web.staging",
    "connect": "CONNECT @:443 HTTP/1.1\nHost: @:443",
    "credentials": f"GET http://@/ HTTP/1.1\nHost: @\n{NAMED}",
}


@pytest.mark.parametrize("mtls", ["off", "permissive", "strict"])
@pytest.mark.parametrize("peer", ["127.0.0.66", "203.0.113.7"])
@pytest.mark.parametrize("head", INBOUND.values(), ids=INBOUND)
def test_a_stranger_learns_nothing_of_it(play: Playbook, head: str, peer: str, mtls: str) -> None:
    """By its agent's inbound port, in plain text, whatever hops have to be: 403 would say that it is there."""
    hide(play, OTHERS, tls={"mtls": mtls})
    hidden = asked(play, head.replace("@", HIDDEN), inbound=True, peer=peer)
    unknown = asked(play, head.replace("@", UNKNOWN), inbound=True, peer=peer)
    assert without_names([hidden.replace(HIDDEN.encode(), b"@")]) == without_names(
        [unknown.replace(UNKNOWN.encode(), b"@")]
    )
    assert play.idle
