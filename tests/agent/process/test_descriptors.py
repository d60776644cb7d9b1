"""Descriptors: how many, what for, and what is done when there is none."""

from __future__ import annotations

import resource
import socket

import pytest

from agent.process.descriptors import Reserve, affordable, limit, raise_limit
from tests.support.descriptors import none_left


def test_as_many_as_there_may_be() -> None:
    """The soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        assert limit() == 512
        assert raise_limit() == limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_quarter_for_a_listener() -> None:
    """As many for connections to endpoints, and the other listener is not starved; a few in any case."""
    assert affordable(1024) == 224 and affordable(130) == 16 and affordable(131_072) >= 20_000


def test_the_reserve_takes_one_client() -> None:
    """When nothing else can, and is there again when that one has gone."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
    reserve = Reserve()
    with none_left():
        for client in clients:
            with pytest.raises(OSError, match="Too many open files"):
                listening.accept()
            assert not reserve.lent
            taken, address = reserve.accept(listening)
            assert reserve.lent and address == client.getsockname()
            reserve.take_back()
            assert reserve.lent, "there is none to take"
            taken.close()
            reserve.take_back()
            assert not reserve.lent
        with pytest.raises(BlockingIOError):
            reserve.accept(listening)
        assert not reserve.lent
    for each in (*clients, listening):
        each.close()
    reserve.close()
