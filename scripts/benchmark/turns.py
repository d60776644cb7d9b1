"""What is measured off and on in turn, with the same requests."""

from __future__ import annotations

import msgspec


class Turns(msgspec.Struct, frozen=True):
    """Of a row, over all rounds."""

    name: str
    off_us: list[float] = []
    on_us: list[float] = []
    off_p99_us: list[int] = []
    on_p99_us: list[int] = []

    @property
    def more_us(self) -> list[float]:
        """A request, round by round."""
        return [on - off for off, on in zip(self.off_us, self.on_us, strict=True)]
