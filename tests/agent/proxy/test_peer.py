"""Who is at the other end of a connection, and what that makes of what is said there."""

from __future__ import annotations

from agent.proxy.http1.head import parse_request
from agent.proxy.messages import words
from agent.proxy.peer import peer_at
from agent.trust import Agents

BARE = parse_request(b"GET / HTTP/1.1\r\nHost: pets")
TRAILED = parse_request(b"GET / HTTP/1.1\r\nHost: pets\r\nVia: 1.0 cdn\r\nX-Forwarded-For: 9.9.9.9")


def test_an_agent_is_one_as_long_as_it_is_known() -> None:
    """On the same connection: what is learnt of agents later counts, and what is forgotten no longer does."""
    agents = Agents()
    peer = peer_at("10.0.0.2", agents)
    assert (peer.agent, peer.sender) == (False, words.STRANGER)
    agents.learn({"another": "10.0.0.2"}, "here")
    assert (peer.agent, peer.sender) == (True, words.AGENT)
    assert peer.trail(BARE) == b"via: 1.1 shoal\r\n", "it is no link of the chain"
    agents.learn({}, "here")
    assert peer.trail(BARE) == b"via: 1.1 shoal\r\nx-forwarded-for: 10.0.0.2\r\nx-forwarded-proto: http\r\n"


def test_nobody_is_an_agent_where_local_services_connect() -> None:
    """Whatever address they come from."""
    assert peer_at("127.0.0.1", None).sender == peer_at("::1", None).sender == words.LOCAL
    peer = peer_at("10.0.0.2", None)
    assert (peer.agent, peer.sender) == (False, words.CLIENT)
    assert b"via: 1.0 cdn, 1.1 shoal\r\nx-forwarded-for: 9.9.9.9, 10.0.0.2\r\n" in peer.trail(TRAILED)
