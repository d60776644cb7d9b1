"""What somebody wants to see of live requests, and what agents tell each other of them
(`agent.control.traffic.tapping`)."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.questions import Question
from agent.requests.filter import Filter, Place, RequestsTold


class Wanted(msgspec.Struct, frozen=True):
    """Which requests, and what of them beside how they were decided."""

    filter: Filter
    headers: bool = False
    bodies: bool = False


class TapsAsked(msgspec.Struct, frozen=True):
    """Requests that somebody taps, as they end."""

    wanted: Wanted
    places: dict[str, Place] = {}
    """By host; who is not among them begins."""
    most_bytes: int = 512 * 1024
    """Of lines in the answer; one batch of a worker's is told in any case."""


TAPS: Final = Question("taps", TapsAsked, RequestsTold, most_bytes=2 * 1024 * 1024)
