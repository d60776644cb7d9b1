"""How far somebody has read what each host has to tell, as text that he brings along; and a question with such places.

Laws
- Of a thousand agents the text still has room in a request's head, and each is told of no more places than GROUP: what
  agents are asked has a bound.
- A text that is none is refused, also one that would be large.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import msgspec
import trio

from agent.control.admin.v1.operation import Trouble
from agent.control.asking.fanout import Fanout, Missing, Told
from agent.questions import Question

GROUP: Final = 250
"""Agents that are asked the same."""
MOST_PLACES_BYTES: Final = 1024 * 1024
"""Of all places, however small they come."""
P = TypeVar("P")
Q = TypeVar("Q")
A = TypeVar("A")


def packed(places: Mapping[str, Any]) -> str:
    """As text."""
    return urlsafe_b64encode(zlib.compress(msgspec.msgpack.encode(dict(sorted(places.items()))))).decode()


def unpacked(text: str, place: type[P]) -> dict[str, P]:
    """By host; `place`: the type of each. Raises Trouble."""
    if not text:
        return {}
    try:
        found = zlib.decompressobj().decompress(urlsafe_b64decode(text), MOST_PLACES_BYTES)
        return msgspec.msgpack.decode(found, type=dict[str, place])  # type: ignore[valid-type]
    except (ValueError, RecursionError, zlib.error):
        raise Trouble(400, "that is no `next` of an answer before", "$.next") from None


async def ask(
    fanout: Fanout,
    question: Question[Q, A],
    asking: Callable[[dict[str, P]], Q],
    places: Mapping[str, P],
    hosts: Collection[str] | None,
    deadline_s: float,
) -> Told[A]:
    """All of them, each group with its places. `asking`: what a group is asked, by these."""
    wanted = sorted(fanout.wanted(hosts))
    answers: dict[str, A] = {}
    missing: dict[str, Missing] = {}

    async def some(group: list[str]) -> None:
        own = {host: places[host] for host in group if host in places}
        told = await fanout.ask_all(question, asking(own), deadline_s, group)
        answers.update(told.answers)
        missing.update(told.missing)

    async with trio.open_nursery() as nursery:
        for first in range(0, len(wanted), GROUP):
            nursery.start_soon(some, wanted[first : first + GROUP])
    return Told(dict(sorted(answers.items())), dict(sorted(missing.items())))
