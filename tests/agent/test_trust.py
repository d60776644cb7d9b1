"""Who is believed to be an agent."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.trust import Agents, bind_source, canonical, is_here, parse_ranges, source_for

HOSTS = {"here": "10.0.0.1", "there": "10.0.0.2", "six": "2001:DB8:0:0::7"}


def agents(*ranges: str, **more: str) -> Agents:
    found = Agents(ranges)
    found.learn({**HOSTS, **more}, "here")
    return found


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        ("10.0.0.2", True),
        ("::ffff:10.0.0.2", True),
        ("2001:db8::7", True),
        ("10.0.0.1", False),  # an agent does not call itself
        ("10.0.0.3", False),
        ("::ffff:10.0.0.3", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_by_registered_address(peer: str, believed: bool) -> None:
    """In whatever spelling, and nothing else."""
    assert agents().from_agent(peer) is believed
    assert agents().from_agent(peer) is believed, "remembered"


def test_several_agents_may_share_an_address() -> None:
    """This host's too: then it is that of another agent."""
    assert agents(twin="10.0.0.1").from_agent("10.0.0.1")


def test_ranges_of_the_settings_are_believed_besides() -> None:
    """For hosts whose connections come from elsewhere than where they are registered."""
    found = agents("10.8.0.0/16", "2001:db8:1::/48", "192.0.2.7")
    for peer in ("10.8.3.4", "::ffff:10.8.3.4", "2001:db8:1::5", "192.0.2.7", "10.0.0.2"):
        assert found.from_agent(peer)
    assert not found.from_agent("10.9.0.1") and not found.from_agent("fe80::1%eth0")
    assert found.from_agent("10.8.0.1", "10.0.0.2") and not found.from_agent("10.9.0.1", "10.0.0.2")
    found.believe(())
    assert not found.from_agent("10.8.3.4")


def test_a_named_agent_is_believed_where_it_is_registered() -> None:
    """Another one's address is not enough."""
    assert agents().from_agent("::ffff:10.0.0.2", "10.0.0.2")
    assert not agents().from_agent("10.0.0.1", "10.0.0.2")


def test_what_is_learnt_replaces_what_was() -> None:
    """Who left is a stranger."""
    found = agents()
    assert found.from_agent("10.0.0.2")
    found.learn({"here": "10.0.0.1", "third": "10.0.0.3"}, "here")
    assert not found.from_agent("10.0.0.2") and found.from_agent("10.0.0.3")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "agents.example.com", "10.0.0.0/33", "", "0x7f.1"])
def test_what_is_no_range_says_what_would_be_right(text: str) -> None:
    """With the range as it was written."""
    with pytest.raises(ValueError, match=r"such as 10\.8\.0\.0/16"):
        parse_ranges([text])


@given(st.text())
def test_no_peer_is_too_strange(peer: str) -> None:
    """Whatever it is, it is judged."""
    assert not agents("10.8.0.0/16").from_agent(peer + "x")
    assert isinstance(canonical(peer), str)


@pytest.mark.parametrize(
    ("own", "target", "source"),
    [
        ("10.0.0.1", "10.0.0.2", "10.0.0.1"),
        ("127.0.0.2", "127.0.0.3", "127.0.0.2"),
        ("127.0.0.2", "10.0.0.2", ""),
        ("10.0.0.1", "127.0.0.2", ""),
        ("10.0.0.1", "2001:db8::7", ""),
        ("", "10.0.0.2", ""),
    ],
)
def test_where_agents_call_each_other_from(own: str, target: str, source: str) -> None:
    """From the registered address, where such a connection can come about."""
    assert source_for(own, target) == source


def test_an_address_of_another_host_is_passed_over() -> None:
    """Behind a NAT the registered address is none of ours: the connection leaves from where it can."""
    assert is_here("127.0.0.9") and not is_here("192.0.2.1")
    for source, found in (("127.0.0.9", "127.0.0.9"), ("192.0.2.1", "127.0.0.1")):
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            bind_source(client, source)
            client.connect(server.getsockname())
            accepted, (peer, _) = server.accept()
            accepted.close()
            assert peer == found
