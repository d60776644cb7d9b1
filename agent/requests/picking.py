# mypyc: compiled
"""Which requests a filter picks, as they end in a worker and as they stand in records."""

from __future__ import annotations

from typing import Final

from agent.requests.filter import Filter
from policies.language.names import matches

MOST_SERVICES: Final = 10_000
FAULTLESS: Final = "agent.cancelled"
"""The flag that is nobody's fault: the calling agent has given a try up. That agent tells what became of it."""


def is_fault(flag: str) -> bool:
    """Whether a request with this flag (empty: none) has failed by it."""
    return flag != "" and flag != FAULTLESS


class Picker:
    """One filter, ready to be asked."""

    __slots__ = (
        "_caller",
        "_direction",
        "_failed",
        "_flag",
        "_method",
        "_path",
        "_service",
        "_services",
        "_slower_s",
        "_statuses",
    )

    def __init__(self, wanted: Filter) -> None:
        self._service = wanted.service
        self._services: dict[str, bool] = {}
        """Of services that have been seen, whether they are meant."""
        self._caller = wanted.caller
        self._direction = wanted.direction
        self._failed = wanted.failed
        self._flag = wanted.flag
        self._method = wanted.method.encode()
        self._path = wanted.path.encode()
        self._slower_s = wanted.slower_s
        self._statuses = frozenset(wanted.statuses)

    def picks(
        self,
        inbound: bool,
        caller: str,
        service: str,
        method: bytes,
        target: bytes,
        status: int,
        duration_s: float,
        flag: str,
    ) -> bool:
        """Whether somebody wants it."""
        if not self.may_pick(inbound, caller, service, method, target) or duration_s < self._slower_s:
            return False
        if self._statuses and str(status) not in self._statuses and f"{status // 100}xx" not in self._statuses:
            return False
        if self._failed and not is_fault(flag) and status < 500:
            return False
        return not self._flag or flag.startswith(self._flag)

    def may_pick(self, inbound: bool, caller: str, service: str, method: bytes, target: bytes) -> bool:
        """Whether somebody may want one that begins."""
        if not self._means(service):
            return False
        if self._method and method != self._method:
            return False
        if self._path and not target.partition(b"?")[0].startswith(self._path):  # a query may have what is not shown
            return False
        if self._caller and caller != self._caller:
            return False
        return not self._direction or (self._direction == "inbound") == inbound

    def _means(self, service: str) -> bool:
        if not self._service or service == self._service:
            return True
        if "*" not in self._service:
            return False
        found = self._services.get(service)
        if found is None:
            if len(self._services) >= MOST_SERVICES:  # whoever may leave the mesh names any host
                self._services.clear()
            found = self._services[service] = service != "" and matches(self._service, service)
        return found
