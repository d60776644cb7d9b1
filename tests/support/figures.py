"""Workers as far as figures go, without workers: what they tell is what a test says."""

from __future__ import annotations

from typing import Any


def edge(count: int, *, first: bool = True, caller: str = "shop", peer: str = "h2", failed: int = 0) -> list[Any]:
    buckets = [0] * 36
    buckets[10] = count
    return [first, caller, "rules[0]", "v1", peer, [0, 0, count, 0, 0, failed], count * 0.01, buckets]


def told(*edges: list[Any], **more: Any) -> dict[str, Any]:
    return {"services": {"pets": {"edges": list(edges), **more}}}


class Workers:
    """What they tell, as a test says it."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []
        self.load: dict[int, dict[str, Any]] = {}
        self.alive: list[int] = [1, 2]
        self.asked = 0
        self.looked = 0

    async def metrics(self) -> list[dict[str, Any]]:
        self.asked += 1
        return self.figures

    def counted(self) -> list[dict[str, Any]]:
        return self.figures

    async def loads(self) -> dict[int, dict[str, Any]]:
        self.looked += 1
        return self.load

    def pids(self) -> list[int]:
        return self.alive
