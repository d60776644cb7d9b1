"""Where programs listen: real sockets, of every kind that there is."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack

import pytest

from agent.process.listening import Listener, at, listeners, network
from tests.support.hosts import hosts, needs_namespaces


def listen(stack: ExitStack, family: int, address: str, *, only_6: bool = False) -> int:
    """A socket that listens there; its port."""
    sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_6)
    sock.bind((address, 0))
    sock.listen()
    return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("family", "address", "only_6", "strangers", "reached"),
    [
        (socket.AF_INET, "127.0.0.1", False, False, {"127.0.0.1"}),
        (socket.AF_INET, "127.0.0.7", False, False, {"127.0.0.7"}),
        (socket.AF_INET, "0.0.0.0", False, True, {"127.0.0.1", "127.0.0.7", "10.1.2.3"}),
        (socket.AF_INET6, "::1", False, False, {"::1"}),
        (socket.AF_INET6, "::", False, True, {"127.0.0.1", "127.0.0.7", "10.1.2.3", "::1"}),
        (socket.AF_INET6, "::", True, True, {"::1"}),
        (socket.AF_INET6, "::ffff:127.0.0.1", False, False, {"127.0.0.1"}),
    ],
)
def test_a_socket_is_seen_as_it_listens(
    family: int, address: str, only_6: bool, strangers: bool, reached: set[str]
) -> None:
    """Its address, whether others reach it, and by which addresses it is reached."""
    with ExitStack() as stack:
        port = listen(stack, family, address, only_6=only_6)
        (found,) = at(port)
        assert found.by_strangers is strangers
        all_of_them = ("127.0.0.1", "127.0.0.7", "10.1.2.3", "::1")
        assert {each for each in all_of_them if found.reached_at(ipaddress.ip_address(each))} == reached
    assert at(port) == []


def test_connections_are_no_listeners() -> None:
    """Both ends of one have ports, too."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            assert at(client.getsockname()[1]) == []
            assert [str(each) for each in at(server.getsockname()[1])] == [f"127.0.0.1:{server.getsockname()[1]}"]


def test_many_are_all_told() -> None:
    """More than one answer of the kernel's has room for."""
    with ExitStack() as stack:
        ports = {listen(stack, socket.AF_INET, "127.0.0.1") for _ in range(400)}
        assert ports <= {each.port for each in listeners()}


def test_a_listener_reads_as_an_address_does() -> None:
    """IPv6 in brackets."""
    assert str(Listener(ipaddress.ip_address("::1"), 80)) == "[::1]:80"


@needs_namespaces
def test_another_network_has_another_number() -> None:
    """And its sockets are its own."""
    with ExitStack() as stack:
        port, ours = listen(stack, socket.AF_INET, "0.0.0.0"), network()
        assert ours == network() != 0
        with hosts():
            assert network() not in (0, ours)
            assert at(port) == []
        assert network() == ours and at(port)
