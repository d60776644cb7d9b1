"""What a sink has to know of a record that it passes on: its line, and when it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from agent.control.records.waiting import Batch, Kind
from agent.requests.format import Format

FORMATTED: Final[Kind] = "access"
"""The kind whose lines may be something else than JSON."""


class Line(NamedTuple):
    """One record."""

    kind: Kind
    text: bytes
    """JSON, or as the sink's format has it; without the end of the line."""
    at: float
    """Unix seconds."""


class _When(msgspec.Struct):
    """What is looked at."""

    time: float | str = 0.0
    at: float | str = 0.0


_decode = msgspec.json.Decoder(_When).decode
_LATEST_S = 253_402_300_798.0  # the end of the year 9999, which is all that RFC 3339 can write


def lines_of(batch: Batch, now: float, format: Format | None = None) -> Iterator[Line]:
    """Its records; of one that does not say when it was, it is `now`. `format`: of access records."""
    shape = format.line if format is not None and batch.kind == FORMATTED else None
    for text in batch.lines.split(b"\n"):
        if text:
            yield Line(batch.kind, text if shape is None else shape(text), _at(text, now))


def written(batch: Batch, format: Format | None) -> bytes:
    """All of its lines, each with its end."""
    return format.lines(batch.lines) if format is not None and batch.kind == FORMATTED else batch.lines


def _at(text: bytes, now: float) -> float:
    try:
        told = _decode(text)
        said = told.time or told.at
        found = datetime.fromisoformat(said).timestamp() if isinstance(said, str) else said
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return now
    return found if 0 < found <= _LATEST_S else now


def rfc3339(at: float) -> str:
    """With microseconds, in UTC."""
    second, micro = divmod(round(at * 1e6), 1_000_000)
    return f"{_second(second)}.{micro:06d}Z"


@lru_cache(maxsize=64)
def _second(at: int) -> str:
    """Records of the same second come together, and writing it costs more than all the rest of one."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
