"""Requests of the whole mesh: whom each question goes to, how far somebody has read, and garbage in its place."""

from __future__ import annotations

import os
import zlib
from base64 import urlsafe_b64encode
from functools import partial
from typing import Any

import msgspec
import pytest

from agent.control.admin.v1.operation import Asked, Trouble
from agent.control.admin.v1.parts.reading.reading_on import Requests
from agent.control.admin.v1.parts.reading.requests import RequestsOperation, RequestsQuery
from agent.control.asking.answering import Answering
from agent.control.asking.fanout import Fanout
from agent.control.mesh.table import Table
from agent.control.traffic.following import Following
from agent.proxy.control.peers import MAX_BYTES
from agent.questions import ASK, read
from agent.requests.filter import Place, RequestsAsked, RequestsTold
from registry.keys import Keys
from registry.records import Agent

HEAD_BYTES = 64 * 1024
"""Of a request to the admin API."""


class Mesh:
    """So many agents, each at some place of a stream of its own."""

    def __init__(self, count: int) -> None:
        self.table = Table(Keys(), "here")
        names = [f"web-{n:05d}.production.example" for n in range(count)]
        self.table.agents.update({name: Agent(address="10.0.0.1", inbound_port=1) for name in names})
        self.streams = {name: f"{os.urandom(6).hex()}-1" for name in names}
        self.largest_bytes = 0
        answering = Answering("here", self.table.agents)
        Following("here", answering, recorded=False)
        fanout = Fanout("here", self.table.agents, self._ask, answering)
        self.ask = partial(self._told, RequestsOperation(self.table, fanout).operation())

    async def _ask(self, host: str, path: str, body: bytes, timeout_s: float, most_bytes: int = 0) -> tuple[int, bytes]:
        assert path == f"{ASK}requests"
        self.largest_bytes = max(self.largest_bytes, len(body))
        asked = read(body, RequestsAsked)
        assert isinstance(asked, RequestsAsked)
        place = asked.places.get(host, Place(self.streams[host], 1_000_000))
        line = b'{"status":200}\n' if host in asked.places else b""
        return 200, msgspec.msgpack.encode(RequestsTold(line, 0, Place(place.stream, place.after + 1)))

    async def _told(self, operation: Any, **query: Any) -> Requests:
        told: Requests = await operation.handle(Asked({}, RequestsQuery(**query)))
        return told


async def test_a_thousand_agents_are_followed() -> None:
    """How far somebody has read stands in the head of his next request, which has room for it; and what each agent is
    asked is less than it would refuse."""
    mesh = Mesh(1500)
    begun = await mesh.ask()
    assert not begun.missing and len(begun.hosts) == 1501 and len(begun.next) < HEAD_BYTES * 0.8
    told = await mesh.ask(next=begun.next)
    assert sum(len(each.items) for each in told.hosts.values()) == 1500
    assert mesh.largest_bytes < MAX_BYTES / 2
    again = await mesh.ask(next=told.next)
    assert not again.missing and again.next != told.next


@pytest.mark.parametrize("garbage", ["x", "gA==", "AAAA", "é", b"\xc1", bytes(50_000_000)])
async def test_a_place_that_is_none_is_refused(garbage: str | bytes) -> None:
    """Also one that would be large."""
    if isinstance(garbage, bytes):
        garbage = urlsafe_b64encode(zlib.compress(garbage)).decode()
    with pytest.raises(Trouble, match="no `next`"):
        await Mesh(1).ask(next=garbage)
