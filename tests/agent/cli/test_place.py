"""Where a program of `shoal run` is to listen, and what is made of where it does."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from agent.cli.failure import Exit, Failure
from agent.cli.running.place import Place, choose, elsewhere, exposed, free_port
from agent.process.listening import Listener, network

HERE = Place("127.0.0.1", "127.0.0.1", 8080, here=True)


class Agent:
    """That answers, or does not, what network it is in."""

    place = "/run/shoal/agent.sock"

    def __init__(self, **told: Any) -> None:
        self.told = told

    def get(self, path: str) -> Any:
        if not self.told:
            raise Failure("no GET /api/v1/network here", Exit.NO)
        return self.told


def chosen(agent: Agent, address: str = "", port: int = 8080) -> Place:
    return choose(agent, address, port)  # type: ignore[arg-type]


def listening(*addresses: str) -> list[Listener]:
    return [Listener(ipaddress.ip_address(address), 8080) for address in addresses]


def test_it_is_loopback_where_the_agent_is() -> None:
    """And else the agent's own address, at which it has to listen for others; as with an agent of a version before."""
    ours = network()
    assert chosen(Agent(network=ours, guarded=[])) == HERE
    for agent in (Agent(network=ours + 1, guarded=[]), Agent(), Agent(network="x")):
        assert chosen(agent) == Place("", "0.0.0.0", 8080, here=False)
    far = Agent(network=ours, guarded=[])
    far.place = "https://web-1:15443"
    assert not chosen(far).here


def test_what_the_command_line_says_is_so() -> None:
    """An address of this host is where to listen; at another one, which only others know, it listens for all."""
    agent = Agent(network=network(), guarded=[(8000, 9000)])
    assert chosen(agent, "127.0.0.2") == Place("127.0.0.2", "127.0.0.2", 8080, here=False, guarded=True)
    assert chosen(agent, "192.0.2.7").host == "0.0.0.0"
    assert chosen(agent, port=7999).guarded is False


def test_a_port_is_taken_from_those_that_are_guarded() -> None:
    """As long as there is one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Failure, match="no port is free among"):
            free_port("127.0.0.1", [(port, port)])
        place = chosen(Agent(network=network(), guarded=[(port, port), (34567, 34599)]), port=0)
        assert 34567 <= place.port <= 34599 and place.guarded


@pytest.mark.parametrize(
    ("addresses", "moved"),
    [
        ((), ""),
        (("127.0.0.1",), ""),
        (("0.0.0.0",), ""),
        (("::",), ""),
        (("10.1.2.3",), "10.1.2.3"),
        (("10.1.2.3", "127.0.0.1"), ""),
        (("::1",), "::1"),
    ],
)
def test_one_that_listens_elsewhere_only_is_registered_there(addresses: tuple[str, ...], moved: str) -> None:
    """Of what was ours to choose; another's choice stays."""
    assert elsewhere(HERE, listening(*addresses)) == moved
    assert not elsewhere(Place("127.0.0.1", "127.0.0.1", 8080, here=False), listening(*addresses))


def test_one_for_ipv6_only_is_reached_by_its_loopback() -> None:
    """It listens on every address, and on none of IPv4."""
    assert elsewhere(HERE, [Listener(ipaddress.ip_address("::"), 8080, only_6=True)]) == "::1"


def test_what_others_reach_is_said_with_what_to_do() -> None:
    """Not of loopback, nor of ports that are guarded."""
    assert not exposed(HERE, listening("127.0.0.1", "::1"))
    assert "every address" in exposed(HERE, listening("0.0.0.0")) and "$HOST" in exposed(HERE, listening("0.0.0.0"))
    assert "10.1.2.3" in exposed(HERE, listening("10.1.2.3"))
    assert not exposed(Place("127.0.0.1", "127.0.0.1", 8080, here=True, guarded=True), listening("0.0.0.0"))
