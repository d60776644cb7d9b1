"""Where a request comes from: believed of agents, of proxies that the settings name, and of nobody else; and what rules
and limits make of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.frames import Configure
from agent.identity.spiffe import SpiffeId
from agent.identity.verdict import Identity
from agent.proxy.peer import Proof, peer_at
from agent.proxy.request.explain import explain
from agent.questions import Explain
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import AGENT, STRANGER, entrust

LAMPS = "lamps.production"
OWN = "10.0.0.99"
OFFICE = {"rules": [{"name": "the office", "allow": "anybody", "from": ["192.0.2.0/24", "2001:db8:7::/48"]}]}
NOT_THERE = {"rules": [{"deny": "anybody", "from": ["198.51.100.0/24"]}], "default": "allow"}
BALANCER = "10.9.0.1"


@pytest.fixture
def play() -> Iterator[Playbook]:
    """An agent behind balancers, and a service that the office may call."""
    with Playbook(host="here") as play:
        entrust(play.worker)
        play.worker.agents.learn({"another": AGENT, "here": OWN}, "here")
        play.worker.take(Configure(host="here", proxies=["10.9.0.0/16", "2001:db8:9::/48"]))
        guard(play, OFFICE)
        yield play


def guard(play: Playbook, document: Any) -> None:
    play.put(play.instance("lamp", agent="here"), service=LAMPS, authz=document)


def asks(play: Playbook, peer: str, *lines: str, inbound: bool = False) -> Wire:
    client = play.client(peer=peer, inbound=inbound)
    if inbound:
        lines = (*lines, f"X-Shoal-Endpoint: {LAMPS}/lamp")
    assert client >> "\r\n".join(["GET / HTTP/1.1", f"Host: {LAMPS}", *lines, "", ""]).encode()
    return client


def passes(play: Playbook, wire: Wire) -> bool:
    if not wire.heard:
        play.upstream("lamp")
        return True
    assert wire.heard.startswith(b"HTTP/1.1 403 ")
    return False


def way(text: str) -> str:
    return f"X-Forwarded-For: {text}"


@pytest.mark.parametrize(
    ("peer", "lines", "comes"),
    [
        # Whoever connects, at whatever it says.
        ("192.0.2.7", [], True),
        ("::ffff:192.0.2.7", [], True),
        ("2001:db8:7::1", [], True),
        (STRANGER, [], False),
        (STRANGER, [way("192.0.2.7")], False),
        (STRANGER, ["Forwarded: for=192.0.2.7", "X-Real-IP: 192.0.2.7", "True-Client-IP: 192.0.2.7"], False),
        (STRANGER, ["X-Shoal-Client: 192.0.2.7"], False),
        ("192.0.2.7", ["X-Shoal-Client: 198.51.100.7", way("198.51.100.7")], True),
        # By a proxy that is trusted: what it has seen, and nothing further left.
        (BALANCER, [way("192.0.2.7")], True),
        (BALANCER, [way("192.0.2.7:4711")], True),
        (BALANCER, [way("[2001:db8:7::9]:4711")], True),
        (BALANCER, [way("::ffff:192.0.2.7")], True),
        (BALANCER, [way("198.51.100.7")], False),
        (BALANCER, [way("192.0.2.7, 198.51.100.7")], False),
        (BALANCER, [way("192.0.2.7"), way("198.51.100.7")], False),
        (BALANCER, [way("198.51.100.7"), way("192.0.2.7")], True),
        (BALANCER, [way("198.51.100.7, 192.0.2.7")], True),
        (BALANCER, ["X-Shoal-Client: 192.0.2.7"], False),
        (BALANCER, [], False),
        # By several of them; by one that says nothing of use.
        (BALANCER, [way("192.0.2.7, 10.9.1.1, 2001:db8:9::1")], True),
        (BALANCER, [way("192.0.2.7, 203.0.113.5, 10.9.1.1")], False),
        (BALANCER, [way("192.0.2.7, unknown")], False),
        (BALANCER, [way("192.0.2.7,")], False),
        (BALANCER, [way("192.0.2.7, unknown, 10.9.1.1")], False),
        (f"::ffff:{BALANCER}", [way("192.0.2.7")], True),
    ],
)
@pytest.mark.parametrize("inbound", [False, True])
def test_an_address_is_whose_connection_it_is_or_what_trusted_proxies_saw(
    play: Playbook, peer: str, lines: list[str], comes: bool, inbound: bool
) -> None:
    """At either listener, by an allow rule."""
    assert passes(play, asks(play, peer, *lines, inbound=inbound)) is comes


@pytest.mark.parametrize(
    ("lines", "comes", "excluded"),
    [
        (["X-Shoal-Client: 192.0.2.7"], True, False),
        (["X-Shoal-Client: 198.51.100.7"], False, True),
        (["X-Shoal-Client: 198.51.100.7", way("192.0.2.7")], False, True),
        ([way("192.0.2.7")], False, True),  # an agent of a version before says nothing, and nobody guesses
        (["X-Shoal-Client: everywhere"], False, True),
        (["X-Shoal-Client: "], False, True),
        ([], False, True),
    ],
)
def test_agents_are_believed_and_what_they_do_not_say_is_not_known(
    play: Playbook, lines: list[str], comes: bool, excluded: bool
) -> None:
    """An address that nobody knows is no address to a rule that allows, and any to one that denies."""
    assert passes(play, asks(play, AGENT, *lines, inbound=True)) is comes
    guard(play, NOT_THERE)
    assert passes(play, asks(play, AGENT, *lines, inbound=True)) is not excluded


def test_another_meshs_agent_is_where_it_connects_from(play: Playbook) -> None:
    """Nothing that it says of whom it calls for is believed."""
    proof = Proof(Identity(SpiffeId("us.shoal", "/svc/shop"), "", 0, 2e9, ()), LAMPS, ours=False)
    wire = play.client(inbound=True, peer="192.0.2.7")
    stream = play.connection(wire).stream
    assert stream is not None
    stream.peer = peer_at("203.0.113.9", play.worker.agents, proof)
    assert wire >> f"GET / HTTP/1.1\r\nHost: {LAMPS}\r\nX-Shoal-Client: 192.0.2.7\r\n\r\n".encode()
    assert not passes(play, wire)


def test_a_program_of_this_host_is_at_the_hosts_address(play: Playbook) -> None:
    """Loopback is every host's, so no rule means it."""
    guard(play, {"rules": [{"allow": "anybody", "from": ["127.0.0.0/8", "::1"]}]})
    assert not passes(play, asks(play, "127.0.0.1"))
    guard(play, {"rules": [{"allow": "anybody", "from": [OWN]}]})
    assert passes(play, asks(play, "127.0.0.1"))
    assert passes(play, asks(play, "127.0.0.1", way("192.0.2.7")))


def heard(play: Playbook, peer: str, *lines: str) -> list[bytes]:
    """What the next hop is told of a request that comes to the outbound listener."""
    client = play.client(peer=peer)
    assert client >> "\r\n".join(["GET / HTTP/1.1", "Host: far", *lines, "", ""]).encode()
    wire = play.upstream()
    head = bytes(wire.heard).lower()
    return [line for line in head.split(b"\r\n") if line.startswith((b"x-shoal-client", b"x-forwarded-for"))]


def test_agents_are_told_and_services_are_not(play: Playbook) -> None:
    """An agent by a word of its own, beside the way that services see; an instance of this host by that way only."""
    play.put(play.instance("one", agent="another", via=True), service="far")
    assert heard(play, "127.0.0.1") == [b"x-forwarded-for: 127.0.0.1", b"x-shoal-client: 10.0.0.99"]
    assert heard(play, "198.51.100.7", "X-Shoal-Client: 192.0.2.7") == [
        b"x-forwarded-for: 198.51.100.7",
        b"x-shoal-client: 198.51.100.7",
    ]
    assert heard(play, BALANCER, way("1.1.1.1, 192.0.2.7")) == [
        b"x-forwarded-for: 1.1.1.1, 192.0.2.7, 10.9.0.1",
        b"x-shoal-client: 192.0.2.7",
    ]
    assert heard(play, BALANCER, way("nobody")) == [b"x-forwarded-for: nobody, 10.9.0.1"]
    play.put(play.instance("two", agent="here"), service="far")
    assert heard(play, BALANCER, way("192.0.2.7")) == [b"x-forwarded-for: 192.0.2.7, 10.9.0.1"]


def test_limits_count_by_it(play: Playbook) -> None:
    """Behind one balancer each client has his own; what a client says himself gives him no second one."""
    each = {"name": "each", "rate": 1, "burst": 1, "key": {"address": True}}
    there = {**each, "name": "there", "side": "service"}
    play.put(play.instance("lamp", agent="here"), service=LAMPS, ratelimit={"limits": [each]})
    told = [
        asks(play, BALANCER, way("192.0.2.7")),
        asks(play, BALANCER, way("192.0.2.8")),
        asks(play, BALANCER, way("1.2.3.4, 192.0.2.7")),
    ]
    play.put(play.instance("lamp", agent="here"), service=LAMPS, ratelimit={"limits": [there]})
    told += [
        asks(play, AGENT, "X-Shoal-Client: 192.0.2.7", way("192.0.2.5"), inbound=True),
        asks(play, AGENT, "X-Shoal-Client: 192.0.2.8", way("192.0.2.5"), inbound=True),
        asks(play, AGENT, "X-Shoal-Client: 192.0.2.7", way("192.0.2.6"), inbound=True),
    ]
    assert [each.heard[:12] for each in told] == [b"", b"", b"HTTP/1.1 429"] * 2


@pytest.mark.parametrize(
    ("address", "comes"), [("192.0.2.7", True), ("198.51.100.7", False), ("", False), ("nobody", False)]
)
def test_an_explanation_says_the_same(play: Playbook, address: str, comes: bool) -> None:
    """`shoal explain --from`."""
    told = explain(play.worker, Explain(f"http://{LAMPS}/", address=address))
    assert (told["status"] != 403) is comes
    assert any("the office" in json.dumps(each) or "default" in json.dumps(each) for each in told["decisions"])


def test_other_proxies_are_believed_from_the_next_request_on(play: Playbook) -> None:
    """As the settings say it by then."""
    assert passes(play, asks(play, BALANCER, way("192.0.2.7")))
    play.worker.take(Configure(host="here"))
    assert not passes(play, asks(play, BALANCER, way("192.0.2.7")))
