"""Documents of every level as requests meet them: one that denies is enough, and is the one that is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent.frames import PolicyFrame
from agent.identity.verdict import Identity
from agent.proxy.peer import Peer, Proof
from agent.proxy.request.explain import explain
from agent.questions import Explain
from policies.kinds.tls.decide import OFF, PERMISSIVE, STRICT
from tests.support.identity import SHOP
from tests.support.playbook import Playbook, Wire
from tests.support.proxy import SERVICE

DELIVER = b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Shoal-Endpoint: pets.production/one\r\n\r\n"
REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\nserver: shoal\r\nx-shoal-policy: tls\r\nx-shoal-reason: policies/tls/%b is strict: "
    b"hops are TLS, and this request came in plain text\r\n..."
)
IDENTITY = Identity(SHOP, "web-1", 7, 2e9, ())


def levels(*documents: tuple[str, Any]) -> PolicyFrame:
    """The most specific first."""
    first, *wider = [
        PolicyFrame(key, n, json.dumps(document).encode()) for n, (key, document) in enumerate(documents, 3)
    ]
    return PolicyFrame(first.key, first.revision, first.text, "", tuple(wider))


@pytest.fixture
def play() -> Iterator[Playbook]:
    with Playbook(host="here") as play:
        yield play


def put(play: Playbook, *documents: tuple[str, Any]) -> None:
    play.put(play.instance("one", agent="here"), tls=levels(*documents))


def hop(play: Playbook, peer: str = "", *, proven: bool = False) -> Wire:
    wire = play.client(inbound=True, **({"peer": peer} if peer else {}))
    if proven:
        stream = play.connection(wire).stream
        assert stream is not None
        stream.peer = Peer(stream.peer.address, play.worker.agents, Proof(IDENTITY, SERVICE, ours=True))
    return wire


def mtls(mode: str) -> dict[str, str]:
    return {"mtls": mode}


@pytest.mark.parametrize("strict", [0, 1, 2])
def test_any_level_that_is_strict(play: Playbook, strict: int) -> None:
    """Refuses plain text of agents and strangers, on this host too, in its own name; who is proven passes."""
    keys = (SERVICE, "*.production", "*")
    put(play, *((key, mtls("strict" if n == strict else "off")) for n, key in enumerate(keys)))
    for peer in ("", "127.0.0.1", "203.0.113.7"):
        client = hop(play, peer)
        assert client >> DELIVER.replace(b"\r\n\r\n", b"\r\nX-Forwarded-Proto: https\r\n\r\n")
        assert client << REFUSED % keys[strict].encode() and play.idle
    client = hop(play, proven=True)
    assert client >> DELIVER
    assert play.upstream("one")
    stats = play.worker.table.services[SERVICE].stats
    assert (stats.refused, stats.refused_second) == ({"tls": 1}, {"tls": 2})


@pytest.mark.parametrize("mode", ["off", "permissive"])
def test_what_is_not_strict_refuses_nobody(play: Playbook, mode: str) -> None:
    """And is asked nothing: it costs a request nothing."""
    put(play, (SERVICE, mtls(mode)), ("*", mtls("off")))
    plan = play.worker.table.services[SERVICE].plan
    assert plan.inbound == () and plan.tls is not None
    assert plan.tls.mode == {"off": OFF, "permissive": PERMISSIVE}[mode]
    client = hop(play)
    assert client >> DELIVER
    assert play.upstream("one")


def test_a_program_of_this_host_has_no_hop(play: Playbook) -> None:
    """It reaches the instance beside it as before."""
    put(play, ("*", mtls("strict")))
    client = play.client()
    assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\n\r\n"
    assert play.upstream("one")


@pytest.mark.parametrize("mode", ["off", "permissive", "strict"])
def test_an_instance_without_an_agent(play: Playbook, mode: str) -> None:
    """Is sent plain text where that is meant; and TLS, however lax the rest is, where it speaks that."""
    plain, secured = {"speaks": "plain"}, {"speaks": "tls", "name": "pets.example.com"}
    play.put(play.instance("one", address="10.0.0.9"), tls=levels(("*", {**mtls(mode), "origin": plain})))
    client = play.client()
    assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\n\r\n"
    assert play.upstream("one")
    documents = ((SERVICE, {**mtls(mode), "origin": plain}), ("*", {**mtls("off"), "origin": secured}))
    play.put(play.instance("one", address="10.0.0.9"), tls=levels(*documents))
    client = play.client()
    assert client >> b"GET /a HTTP/1.1\r\nHost: pets.production\r\n\r\n"
    up = play.upstream("one").accepts()
    assert up.heard[:1] == b"\x16" and b"pets.example.com" in up.heard and b"GET" not in up.heard
    assert play.idle


def test_without_a_document(play: Playbook) -> None:
    """There is nothing."""
    play.put(play.instance("one", agent="here"))
    plan = play.worker.table.services[SERVICE].plan
    assert plan.tls is None and plan.inbound == ()


def test_a_plan_of_the_same_policies(play: Playbook) -> None:
    """Takes it over."""
    put(play, ("*", mtls("strict")))
    table = play.worker.table
    before = table.services[SERVICE].plan
    table.change(SERVICE, 9, [play.instance("two", agent="here")], [], None, 0.0)
    table.commit(9)
    plan = table.services[SERVICE].plan
    assert plan is not before and plan.tls is before.tls and plan.inbound is before.inbound


def test_levels_that_are_watched(play: Playbook) -> None:
    """Together, beside what is enforced."""
    play.put(
        play.instance("one", agent="here"),
        tls=levels(("*", mtls("permissive"))),
        audits={"tls": levels((SERVICE, mtls("off")), ("*.production", mtls("strict")))},
    )
    client = hop(play)
    assert client >> DELIVER
    assert play.upstream("one")
    client = hop(play, proven=True)
    assert client >> DELIVER
    stats = play.worker.table.services[SERVICE].stats
    assert stats.audited() == {
        ("tls", SERVICE, "passed", "refused by plain text"): 1,
        ("tls", SERVICE, "passed", "passed"): 1,
    }
    assert stats.refused == {} and play.worker.table.services[SERVICE].plan.tls.mode == PERMISSIVE  # type: ignore[union-attr]


def test_a_level_that_this_worker_does_not_understand(play: Playbook) -> None:
    """Counts as the tightest, and is told."""
    frame = PolicyFrame("*", 4, b'{"mtls": "of the next version"}')
    first = PolicyFrame(SERVICE, 3, b'{"mtls": "off"}', "", (frame,))
    refused = play.worker.table.stage(SERVICE, 1, [play.instance("one", agent="here")], {"tls": first}, 0.0)
    assert [(each.kind, each.key) for each in refused] == [("tls", "*")]
    play.worker._commit(1, 1)
    plan = play.worker.table.services[SERVICE].plan
    assert plan.tls is not None and (plan.tls.mode, plan.tls.reason_policy) == (STRICT, "tls/* of revision 4")
    client = hop(play)
    assert client >> DELIVER
    assert client << REFUSED % b"*"


def test_what_explanations_say(play: Playbook) -> None:
    """All that apply; a hop is taken for what documents want."""
    put(play, (SERVICE, mtls("strict")), ("*", mtls("strict")))
    told = explain(play.worker, Explain(url="http://pets.production/", inbound=f"{SERVICE}/one"))
    assert told["status"] is None
    (entry,) = [each for each in told["decisions"] if each["policy"].startswith("tls/")]
    assert (entry["policy"], entry["decision"]) == (f"tls/{SERVICE}", "goes on")
    assert entry["reason"] == "it may pass, by * too"
    client = hop(play)
    assert client >> DELIVER.replace(b"\r\n\r\n", b"\r\nX-Shoal-Explain: 1\r\n\r\n")
    explained = client.heard.partition(b"x-shoal-explain-inbound: ")[2].partition(b"\r\n")[0]
    last = json.loads(explained)["decisions"][-1]
    assert (last["policy"], last["revision"], last["decision"]) == (f"tls/{SERVICE}", 3, "answer 403")
