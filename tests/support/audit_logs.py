"""Logs to be tampered with, made without a disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.audit.record import BEGUN, SEALED, Draft, Position, Record, line, made


class Log:
    """Of one host, in segments."""

    def __init__(self, host: str = "web-1") -> None:
        self.host = host
        self.position = Position()
        self.segments: list[list[Record]] = []
        self._salt = 0

    def _chance(self, size: int) -> bytes:
        self._salt += 1
        return self._salt.to_bytes(size, "big")

    def add(
        self, event: str, data: Mapping[str, object], personal: Mapping[str, str] | None = None, until: float = 0.0
    ) -> Record:
        draft = Draft(event, 1000.0 + self.position.n, data, personal or {}, until)
        record = made(draft, self.host, self.position, self._chance)
        self.position = record.position
        self.segments[-1].append(record)
        return record

    def begin(self) -> None:
        self.segments.append([])
        self.add(BEGUN, {"before": self.position.hash})

    def seal(self) -> None:
        self.add(SEALED, {"records": len(self.segments[-1]) + 1})


def log(segments: int = 3, each: int = 5) -> Log:
    """Of `segments`, the last of which is open, with so many requests in each."""
    made = Log()
    for number in range(segments):
        made.begin()
        for n in range(each):
            made.add(
                "authz.denied",
                {"service": "lamps", "status": 403, "n": n},
                {"client": f"10.0.{number}.{n}", "claim.sub": f"haxor{n}"},
            )
        if number < segments - 1:
            made.seal()
    return made


def lines(segments: Sequence[Sequence[Record]]) -> list[tuple[str, list[bytes]]]:
    """As they are read from files."""
    return [(f"{number}.log", [line(record) for record in records]) for number, records in enumerate(segments)]
