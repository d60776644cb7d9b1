"""Answers of what may be no Redis, and means ill."""

from __future__ import annotations

import pytest
import trio

from agent.topics.broker import BrokerError
from agent.topics.redis import MAX_VERDICT_BYTES, MAX_VERDICT_PARTS, Connection


class Said:
    """A stream that something was said on."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[:most], self._data[most:]
        return piece


def sender(data: bytes) -> Connection:
    return Connection(Said(data), most_bytes=MAX_VERDICT_BYTES, most_parts=MAX_VERDICT_PARTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"*90\r\n" * 8 + b":1\r\n" * 100_000,
        b"*2\r\n" + b"$60000\r\n" + b"x" * 60000 + b"\r\n$60000\r\n" + b"x" * 60000 + b"\r\n",
        b"*1000000\r\n" + b":1\r\n" * 200_000,
        b"$268435456\r\n" + b"x" * 1_000_000,
        b"*1\r\n" * 100,
        b"+" + b"x" * 1_000_000,
    ],
    ids=["nested", "together", "list", "long", "deep", "line"],
)
async def test_an_answer_has_bounds_as_a_whole(data: bytes) -> None:
    """Lists within lists included: a host that a policy names must not fill the agent's memory."""
    with pytest.raises(BrokerError):
        await sender(data).answer()


async def test_bounds_are_of_one_answer() -> None:
    """A connection lives longer than any of them."""
    connection = sender(b"$5\r\n1-0-0\r\n" * 20_000)
    assert {await connection.answer() for _ in range(20_000)} == {b"1-0-0"}
