"""Whose a local connection is, by the kernel's word and no other."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.identity.users import User
from agent.process.local_peers import holder_of, listener_of, owner_of, user_of
from tests.support.users import ALICE, as_user, needs_root


def connected(family: int, address: str) -> tuple[socket.socket, socket.socket]:
    """Our end, and the other."""
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        other = socket.create_connection(listener.getsockname()[:2])
        ours, _ = listener.accept()
        return ours, other


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_of_tcp_it_is_whose_the_other_socket_is(family: int, address: str) -> None:
    """As long as somebody has it: one that was closed is nobody's, whatever number the kernel says."""
    ours, other = connected(family, address)
    with ours, other:
        assert owner_of(ours, groups=False) == User(os.getuid())
        found = owner_of(ours, groups=True)
        assert found is not None and os.getgid() in found.gids
        other.shutdown(socket.SHUT_WR)
        assert owner_of(ours, groups=False) == User(os.getuid()), "it has only said all"
        other.close()
        assert owner_of(ours, groups=False) is None


def test_of_what_is_gone_or_none_nothing_is_said() -> None:
    """A connection that was reset, and a socket that was never connected."""
    ours, other = connected(socket.AF_INET, "127.0.0.1")
    with ours:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()
        assert owner_of(ours, groups=False) is None
    with socket.socket() as alone:
        assert owner_of(alone, groups=False) is None


def says(path: str, port: int) -> None:
    """Connect to both, and wait until that was looked at."""
    with socket.socket(socket.AF_UNIX) as one, socket.create_connection(("127.0.0.1", port)) as other:
        one.connect(path)
        one.recv(1)
        other.recv(1)


@needs_root
def test_another_user_is_that_user(tmp_path_factory: pytest.TempPathFactory, runtime_directory: Path) -> None:
    """With the groups of its process, where the kernel knows them."""
    runtime_directory.chmod(0o755)
    path = str(runtime_directory / "s")
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket() as by_port:
        by_path.bind(path)
        os.chmod(path, 0o666)
        by_path.listen()
        by_port.bind(("127.0.0.1", 0))
        by_port.listen()
        if not os.fork():
            as_user(ALICE, says, path, by_port.getsockname()[1], groups=(77,))
            os._exit(0)
        (one, _), (other, _) = by_path.accept(), by_port.accept()
        with one, other:
            found = user_of(one)
            assert found.uid == ALICE and {ALICE, 77} <= found.gids
            assert owner_of(other, groups=True) == User(ALICE), "a number that the host has no user of has no groups"
        os.wait()


def test_who_listens_is_known(runtime_directory: Path) -> None:
    """The process that began to, for who finds a path taken."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(runtime_directory / "s"))
        listener.listen()
        client.connect(str(runtime_directory / "s"))
        assert listener_of(client) == os.getpid()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_who_is_connected_to_is_who_has_accepted_or_listens(address: str) -> None:
    """Also where it listens at all addresses, of both families; nobody, once it listens no more."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        if ":" in address:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, 0))
        listener.listen()
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as ours:
            assert holder_of(ours, groups=False) == User(os.getuid()), "nobody has accepted it yet"
            with listener.accept()[0]:
                assert holder_of(ours, groups=False) == User(os.getuid())


def test_who_is_elsewhere_is_not_known() -> None:
    """Where no socket of this host is at the other end, nothing is said; a socket without an end has no holder."""
    with socket.socket() as alone:
        assert holder_of(alone, groups=False) is None
    ours, other = connected(socket.AF_INET, "127.0.0.1")
    with ours:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()
        assert holder_of(ours, groups=False) is None
