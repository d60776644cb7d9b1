"""Hot keys of limits that all agents share: `ratelimit.hot` decides; here workers' counts come in, and parts go out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from policies.kinds.ratelimit.hot import Granted, HotKeys, KeyLedger, name_of
from policies.kinds.ratelimit.shares import Report, Shared

SEPARATOR: Final = "\0"
"""Between a service and a limit's name."""

Told = dict[str, dict[str, dict[str, int]]]
"""What a worker says: by service, by limit, by key."""
Handed = dict[str, dict[str, dict[str, float]]]
"""What a worker is told, likewise."""


class SharedKeys:
    """This agent as one of those that are asked for keys, and as an owner of some."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._hot = HotKeys()
        self._ledger = KeyLedger()
        self._busiest: dict[str, int] = {}
        """By key: the worker that was asked for it most just now."""

    @property
    def serial(self) -> int:
        """Number of the latest report."""
        return self._hot.serial

    def due(self, now: float) -> bool:
        """Whether it is time to report."""
        return self._hot.due(now)

    def count(self, told: Mapping[int, Told], limits: Mapping[str, Shared], members: int, now: float) -> None:
        """What each worker was asked for since the last time; `limits` are those with keys."""
        total: dict[str, float] = {}
        most: dict[str, int] = {}
        for index, by_service in told.items():
            for service, by_limit in by_service.items():
                for limit, by_key in by_limit.items():
                    for key, count in by_key.items():
                        name = name_of(f"{service}{SEPARATOR}{limit}", key)
                        total[name] = total.get(name, 0.0) + count
                        if count > most.get(name, 0):
                            most[name] = count
                            self._busiest[name] = index
        self._hot.count(total, limits, members, now)

    def reports(self, members: frozenset[str], now: float) -> dict[str, dict[str, Report]]:
        """What to tell, by the owner's host."""
        by_owner: dict[str, dict[str, Report]] = {}
        for name, report in self._hot.report(now).items():
            by_owner.setdefault(self._hot.owner(name, members), {})[name] = report
        return by_owner

    def accept(self, grants: Mapping[str, Granted], serial: int) -> None:
        """An owner's answer."""
        self._hot.accept(grants, serial)

    def divide(
        self, member: str, reports: Mapping[str, Report], limits: Mapping[str, Shared], members: int, now: float
    ) -> dict[str, Granted]:
        """As an owner."""
        return self._ledger.report(member, reports, limits, members, now)

    def parts(self, now: float) -> Handed:
        """Of all keys that have one of their own: the same for each worker."""
        return _handed(self._hot.parts(now))

    def tokens(self, workers: Mapping[int, object]) -> dict[int, Handed]:
        """What was granted at once, for the worker that is asked for the key most; handed out once."""
        granted, self._hot.tokens = self._hot.tokens, {}
        by_worker: dict[int, dict[str, float]] = {}
        for name, tokens in granted.items():
            by_worker.setdefault(self._busiest.get(name, -1), {})[name] = tokens
        known = self._hot.parts(0.0)
        self._busiest = {name: index for name, index in self._busiest.items() if name in known}
        return {index: _handed(tokens) for index, tokens in by_worker.items() if index in workers}


def _handed(by_name: Mapping[str, float]) -> Handed:
    found: Handed = {}
    for name, value in by_name.items():
        service, limit, key = name.split(SEPARATOR)
        found.setdefault(service, {}).setdefault(limit, {})[key] = value
    return found
