"""The agent beside the instance, and what other agents ask it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.frames import Peer
from tests.support.conversation import BUSY, DELIVER, GET, OK, RELAYED, refusal
from tests.support.playbook import Playbook, Wire


def inbound(play: Playbook, name: str, **documents: Any) -> Wire:
    play.put(play.instance(name, agent="here"), **documents)
    return play.client(inbound=True)


def test_it_delivers_to_the_one_that_was_picked() -> None:
    """With who calls, and without what agents say to each other; the caller's agent is no link of the chain."""
    with Playbook(host="here") as play:
        agent = inbound(play, "one")
        assert agent >> DELIVER % b"one"
        up = play.upstream("one")
        assert up << (
            b"GET /a HTTP/1.1\r\nHost: pets.production\r\nX-Request-Id: 7\r\nvia: 1.1 shoal, 1.1 shoal\r\n"
            b"x-shoal-caller: shop.production\r\n\r\n"
        )
        assert up >> OK
        assert agent << RELAYED


@pytest.mark.parametrize(("wanted", "policy"), [(b"two", b"endpoint"), (b"", b"endpoint")])
def test_one_that_is_not_here(wanted: bytes, policy: bytes) -> None:
    """Said so, and that nothing was sent: the caller's agent may go elsewhere."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="elsewhere"))
        agent = play.client(inbound=True)
        head = DELIVER % wanted
        assert agent >> (head if wanted else head.replace(b"X-Shoal-Endpoint: pets.production/\r\n", b""))
        assert agent << refusal(b"503 Service Unavailable", policy, b"") + b"x-shoal-unsent: 1\r\n..." and play.idle


def test_it_never_tries_again() -> None:
    """A connection that is refused, one that breaks, and an answer of 503 each go back as what they are."""
    with Playbook(host="here") as play:
        agent = inbound(play, "one")
        assert agent >> DELIVER % b"one"
        assert play.dialled("one").refuses()
        assert agent << refusal(b"503 Service Unavailable", b"endpoint", b"cannot connect to") + (
            b"x-shoal-unsent: 1\r\n..."
        )
        assert agent >> DELIVER % b"one"
        assert play.upstream("one").breaks()
        assert agent << refusal(b"502 Bad Gateway", b"endpoint", b"127.0.0.1:")
        assert agent >> DELIVER % b"one"
        assert play.upstream("one") >> BUSY % b""
        assert agent << b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nvia: 1.1 shoal\r\n\r\n" and play.idle


@pytest.mark.parametrize("local", [False, True])
def test_one_way_in(local: bool) -> None:
    """Whoever calls, from another host or from this one, meets the same inbound phases; nobody is connected to."""
    with Playbook(host="here") as play:
        agent = inbound(play, "one", shed={"concurrency": 1})
        service = play.worker.table.services["pets.production"]
        caller, head = (play.client(), GET) if local else (agent, DELIVER % b"one")
        assert caller >> head
        up = play.upstream("one")
        other = play.client(inbound=not local)
        assert other >> (DELIVER % b"one" if local else GET)
        said = b"HTTP/1.1 503 ...x-shoal-policy: shed\r\n...x-shoal-shed: 1\r\n..."
        assert other << said and play.idle
        assert service.stats.shed["refused"] == 1
        assert up >> OK
        assert caller << RELAYED
        assert service.limiter is not None and service.limiter.active == 0


def test_inbound_phases_are_those_of_the_instances_service() -> None:
    """A route of pets leads to cats: it is cats' load that counts, as for a caller beside it."""
    with Playbook(host="here") as play:
        play.put(play.instance("one", agent="here"))
        play.put(play.instance("tom", agent="here"), service="cats.production", shed={"concurrency": 1})
        head = (DELIVER % b"tom").replace(b"pets.production/tom", b"cats.production/tom")
        agents = [play.client(inbound=True) for _ in range(2)]
        assert agents[0] >> head
        assert play.upstream("tom") << b"GET /a ..."
        assert agents[1] >> head
        assert agents[1] << b"HTTP/1.1 503 ...x-shoal-shed: 1\r\n..." and play.idle


def test_a_caller_takes_the_way_out_that_its_document_names() -> None:
    """The instance's agent lets no more in: to cats, as if nothing had been sent."""
    with Playbook(host="here") as play:
        far = play.instance("far", agent="there", via=True)
        play.put(far, shed={"concurrency": 5, "instead": [{"service": "cats.production"}]})
        play.put("tom", service="cats.production")
        client = play.client()
        assert client >> GET
        up = play.upstream("far")
        assert up << b"GET /a ...x-shoal-endpoint: pets.production/far\r\n..."
        assert up >> BUSY % b"x-shoal-shed: 1\r\n"
        assert play.upstream("tom") << b"GET /a ..."
        service = play.worker.table.services["pets.production"]
        assert service.stats.shed == {"elsewhere": 1} and service.stats.failures == {}


def test_a_question_meets_no_phase() -> None:
    """It is control that answers; a question that does not come whole, or is too long, is not asked."""
    question = b"POST /shares HTTP/1.1\r\nHost: agent.shoal\r\nContent-Length: 5\r\n\r\n"
    with Playbook() as play:
        play.put("one")
        asked: list[Peer] = []
        play.worker.peers.connect(asked.append)
        agent = play.client(inbound=True)
        assert agent >> question + b"he"
        assert agent >> b"llo"
        assert (asked[0].path, asked[0].body) == ("/shares", b"hello")
        play.worker.peers.answer(asked[0].id, 200, b"so it is")
        assert agent << b"HTTP/1.1 200 OK\r\ncontent-type: application/msgpack\r\ncontent-length: 8\r\n\r\nso it is"
        assert agent >> question + b"hello"
        play.passes(6)
        assert agent << refusal(b"504 Gateway Timeout", b"agent", b"no answer in time")
        play.worker.peers.answer(asked[1].id, 200, b"too late")
        assert agent << b""
        assert agent >> question
        assert agent.ends()
        assert agent.closed and len(asked) == 2
