"""What reaches a listener of ours, however it is written."""

from __future__ import annotations

import socket

import pytest

from agent.control.host.own_ports import OwnPorts, bound, is_here, plain
from agent.control.mesh.places import Places

LOOPBACK = OwnPorts([("admin", ("127.0.0.1", 15000))])
ANYWHERE = OwnPorts([("inbound", ("0.0.0.0", 15006))])
BOTH = OwnPorts([("inbound", ("::", 15006))])


@pytest.mark.parametrize(
    ("own", "address", "port", "reached"),
    [
        (LOOPBACK, "127.0.0.1", 15000, True),
        (LOOPBACK, "::ffff:127.0.0.1", 15000, True),
        (LOOPBACK, "::ffff:7f00:1", 15000, True),
        (LOOPBACK, "0.0.0.0", 15000, True),
        (LOOPBACK, "127.0.0.2", 15000, False),
        (LOOPBACK, "127.0.0.1", 15001, False),
        (LOOPBACK, "192.0.2.1", 15000, False),
        (ANYWHERE, "127.0.0.1", 15006, True),
        (ANYWHERE, "127.9.9.9", 15006, True),
        (ANYWHERE, "::ffff:127.0.0.7", 15006, True),
        (ANYWHERE, "::1", 15006, False),
        (ANYWHERE, "192.0.2.1", 15006, False),
        (BOTH, "127.0.0.1", 15006, True),
        (BOTH, "::1", 15006, True),
        (BOTH, "2001:db8::1", 15006, False),
        (BOTH, "no address", 15006, False),
    ],
)
def test_reached(own: OwnPorts, address: str, port: int, reached: bool) -> None:
    """Judged is what is connected to."""
    assert bool(own.reached_by(address, port)) is reached


def test_every_address_of_this_host_reaches_a_wildcard() -> None:
    """The one that it has towards elsewhere as well, whatever that is here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no way out")
        mine = sock.getsockname()[0]
    assert is_here(mine) and ANYWHERE.reached_by(mine, 15006)
    assert not is_here("192.0.2.1") and not is_here("2001:db8::1") and not is_here("224.0.0.1")


def test_ports_are_those_that_are_bound() -> None:
    """Port 0 is known by what the system picked; sockets in the file system have none."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket(socket.AF_UNIX) as other:
        assert bound([one, other]) == [("127.0.0.1", one.getsockname()[1])]


def test_where_other_agents_are_dialled_no_instance_is() -> None:
    """Other agents' listeners are theirs: known by what they told, and forgotten with them."""
    places = Places()
    own = OwnPorts([], lambda address, port: places.agent_at(address, port))
    assert own.belongs("10.0.0.9", 15006) == ""
    places.count("10.0.0.9", 15006, "evil", 1)
    assert set(places.move("there", None, ("10.0.0.9", 15006))) == {"evil"}
    assert "agent on 'there'" in own.belongs("::ffff:10.0.0.9", 15006)
    assert own.reached_by("10.0.0.9", 15006) == "", "it is dialled there, when a request is for its instances"
    assert set(places.move("there", ("10.0.0.9", 15006), None)) == {"evil"}
    places.count("10.0.0.9", 15006, "evil", -1)
    assert own.belongs("10.0.0.9", 15006) == "" and set(places.move("x", None, ("10.0.0.9", 15006))) == set()
    assert plain("::ffff:10.0.0.9") == "10.0.0.9" and plain("2001:DB8:0::1") == "2001:db8::1"
