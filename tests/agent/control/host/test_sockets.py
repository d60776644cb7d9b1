from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from agent.control.host.port_holders import Holder, holders
from agent.control.host.sockets import HANDOVER, Handover, OldWorker, is_taken, kept, listening, received, share
from agent.settings.address import Address
from agent.settings.file import SettingsError
from tests.support.proxy import refusing_port

ANY = Address("127.0.0.1", 0)


def closed(*sockets: socket.socket | None) -> None:
    for sock in sockets:
        if sock is not None:
            sock.close()


def left_behind(sock: socket.socket) -> int:
    """A descriptor as a process before us leaves it."""
    fd = os.dup(sock.fileno())
    os.set_inheritable(fd, True)
    return fd


def test_every_worker_has_a_socket_on_one_port() -> None:
    """A port that the system picks is the same for all; the kernel spreads connections over them."""
    sockets = listening(ANY, (), 3)
    assert len({sock.getsockname() for sock in sockets}) == 1
    assert all(not sock.getblocking() and not sock.get_inheritable() for sock in sockets)
    assert is_taken(Address(*sockets[0].getsockname()))
    assert [share(sockets, n, 3) for n in range(3)] == [[sock] for sock in sockets]
    closed(*sockets)


def test_no_inherited_socket_is_given_up() -> None:
    """With fewer workers than before some serve several: clients may wait in the queue of each."""
    before = listening(ANY, (), 3)
    after = listening(Address(*before[0].getsockname()), [left_behind(sock) for sock in before], 2, moved=True)
    assert [len(share(after, n, 2)) for n in range(2)] == [2, 1]
    assert {sock.getsockname() for sock in after} == {before[0].getsockname()}
    assert not any(sock.get_inheritable() for sock in after)
    closed(*before, *after)


def test_more_workers_than_before_get_new_sockets() -> None:
    """What was inherited comes first, and what is made listens on the same port."""
    before = listening(ANY, (), 1)
    after = listening(ANY, [left_behind(before[0])], 3, moved=True)
    assert len({sock.getsockname() for sock in after}) == 1
    assert len(after) == 3
    closed(*before, *after)


def test_a_changed_address_is_honoured() -> None:
    """SIGHUP with another `listen`: the inherited socket is closed, and the new address is listened on."""
    before = listening(ANY, (), 1)
    elsewhere = Address("127.0.0.1", refusing_port())
    after = listening(elsewhere, [left_behind(before[0])], 1, moved=True)
    assert after[0].getsockname() == elsewhere
    closed(*before, *after)


def test_a_socket_from_systemd_is_shared() -> None:
    """One without SO_REUSEPORT cannot have siblings: every worker serves that one, wherever it listens."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        sockets = listening(Address("127.0.0.1", 15001), [left_behind(given)], 3)
        assert [sock.getsockname() for sock in sockets] == [given.getsockname()]
        assert [share(sockets, n, 3) for n in range(3)] == [sockets] * 3
        closed(*sockets)


def test_a_socket_from_systemd_stays_where_its_unit_says() -> None:
    """SIGHUP closes what `agent.toml` no longer names, but not what systemd holds: nobody could bind it again."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        first = listening(Address("127.0.0.1", 15001), [left_behind(given)], 2)
        after = listening(Address("127.0.0.1", 15001), [left_behind(first[0])], 2, moved=True)
        assert [sock.getsockname() for sock in after] == [given.getsockname()]
        closed(*first, *after)


def test_a_socket_from_systemd_gets_no_siblings() -> None:
    """Not even one with ReusePort=yes: a sibling's queue would die with the agent, and clients in it."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as given:
        sockets = listening(ANY, [left_behind(given)], 3)
        assert len(sockets) == 1
        closed(*sockets)


def test_only_a_listening_tcp_socket_is_taken_from_systemd() -> None:
    """ListenDatagram= or Accept=yes in the unit is told at the start, and not by a traceback at the first request."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, socket.socket() as silent:
        for wrong in (datagrams, silent):
            with pytest.raises(OSError, match="does not listen for TCP"):
                listening(ANY, [left_behind(wrong)], 1)


def test_a_port_that_is_taken_is_told() -> None:
    """The error names the address, and nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            OSError,
            match=f"cannot listen on 127.0.0.1:{port}: Address already in use .process {os.getpid()} of the user",
        ):
            listening(Address("127.0.0.1", port), (), 2)


@pytest.mark.parametrize("elsewhere", ["127.0.0.1", "0.0.0.0", "::"])
def test_an_address_has_one_agent(elsewhere: str) -> None:
    """SO_REUSEPORT would let two agents share a port, each with half of the connections; wildcards overlap."""
    first = listening(ANY, (), 2)
    port = first[0].getsockname()[1]
    with pytest.raises(OSError, match=f"Address already in use .process {os.getpid()} of the user"):
        listening(Address(elsewhere, port), (), 1)
    closed(*first)
    closed(*listening(Address(elsewhere, port), (), 1))


def test_every_socket_of_a_port_is_given_connections() -> None:
    """The first one is bound alone, and joins the group that the kernel spreads connections over."""
    sockets = listening(ANY, (), 2)
    callers = [socket.create_connection(sockets[0].getsockname()) for _ in range(64)]
    for sock in sockets:
        sock.accept()[0].close()
    closed(*sockets, *callers)


LISTEN = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen()
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def listener(port: int, **more: Any) -> Iterator[int]:
    """Another process that listens with SO_REUSEPORT; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid


def test_workers_of_a_crashed_agent_are_no_obstacle() -> None:
    """They serve until their successors do: what tells them from an agent is that no control holds the sockets too."""
    port = refusing_port()
    with listener(port, env={**os.environ, "SHOAL_CONTROL_FD": "3"}) as pid:
        assert holders(Address("127.0.0.1", port)) == [Holder(pid, os.geteuid(), True)]
        closed(*listening(Address("127.0.0.1", port), (), 2))
    with listener(port) as pid, pytest.raises(OSError, match=f"process {pid} of the user"):
        listening(Address("127.0.0.1", port), (), 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_does_not_pass_for_our_worker() -> None:
    """Whatever stands in its environment: SO_REUSEPORT joins sockets of one user only, and the error tells whose."""
    port = refusing_port()
    other = {**os.environ, "SHOAL_CONTROL_FD": "3"}
    with (
        listener(port, env=other, user=65534, executable="/usr/bin/python3"),
        pytest.raises(OSError, match="Address already in use"),
    ):
        listening(Address("127.0.0.1", port), (), 2)


def test_what_is_handed_over_is_had_before() -> None:
    """A re-execution claims nothing: an address that has changed is listened on already, or nothing is handed over."""
    before = listening(ANY, (), 2)
    here, new = Address(*before[0].getsockname()), Address("127.0.0.1", refusing_port())
    same, moved = kept([(here, before), (new, before)])
    assert (len(same), len(moved)) == (2, 1)
    assert all(map(os.get_inheritable, (*same, *moved)))
    with socket.create_server(("127.0.0.1", 0)) as other:
        open_before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Address already in use"):
            kept([(here, before), (Address(*other.getsockname()), before)])
        assert len(os.listdir("/proc/self/fd")) == open_before
    after = listening(new, moved, 3, moved=True)
    assert {sock.getsockname() for sock in after} == {new}
    closed(*before, *after, *listening(here, same, 2, moved=True))


def test_what_the_process_before_left_is_received() -> None:
    """Descriptors, workers, lease and boot id come through the environment."""
    left = Handover(outbound=(5, 6), inbound=(7,), admin=(8,), workers=(OldWorker(42, 9),), lease=77, boot="b")
    assert received({HANDOVER: msgspec.json.encode(left).decode()}) == left
    assert received({}) == Handover()


def test_what_systemd_passes_is_received_by_name() -> None:
    """LISTEN_FDNAMES says which socket is which; what is meant for another process is not ours."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "admin:shoal-outbound:inbound"}
    assert received(environment) == Handover(outbound=(4,), inbound=(5,), admin=(3,))
    assert received({**environment, "LISTEN_PID": "1"}) == Handover()


@pytest.mark.parametrize(
    ("count", "names", "reason"),
    [
        (1, "shoal.socket", "a socket named 'shoal.socket'; FileDescriptorName= has to be outbound, inbound or admin"),
        (2, "outbound", "a socket named ''"),
        (2, "admin:admin", "several sockets named 'admin'"),
    ],
)
def test_a_socket_that_nobody_can_place_is_told(count: int, names: str, reason: str) -> None:
    """Passed over, it would be bound a second time, and the error would be `Address already in use`."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
    with pytest.raises(SettingsError, match=reason):
        received(environment)
