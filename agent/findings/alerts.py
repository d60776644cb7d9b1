"""All that is wrong with a mesh in one list: what etcd's content says, and what each agent says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from agent.findings.finding import ORDER, Finding

_FIGURE: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


class Alert(Finding, frozen=True):
    """A finding, and who says so."""

    hosts: tuple[str, ...] = ()
    """Whose agents; empty: what stands in etcd."""


def alerts(
    of_mesh: Iterable[Finding], told: Mapping[str, Iterable[Finding]], missing: Mapping[str, str] | None = None
) -> list[Alert]:
    """The worst first, what only etcd says before what agents do. What several say in the same words, figures aside, is
    one. `missing`: agents that say nothing, and why."""
    found: dict[tuple[str, str, str, str], tuple[Finding, list[str]]] = {}

    def enter(finding: Finding, host: str) -> None:
        place = (finding.id, finding.severity, finding.where)
        known = found.setdefault((*place, _FIGURE.sub("0", finding.what)), (finding, []))
        if host in known[1]:  # who says it again means another one
            known = found.setdefault((*place, finding.what), (finding, []))
        if host not in known[1]:
            known[1].append(host)

    for finding in of_mesh:
        enter(finding, "")
    for host in sorted(told):
        for finding in told[host]:
            enter(finding, host)
    for host, reason in sorted((missing or {}).items()):
        see = "look at its log; is its inbound port reached from here?"
        enter(Finding("silent", "warning", host, f"its agent does not say what is wrong there: {reason}", see), "")
    said = [
        Alert(**msgspec.structs.asdict(finding), hosts=tuple(filter(None, hosts))) for finding, hosts in found.values()
    ]
    return sorted(said, key=lambda alert: (ORDER[alert.severity], bool(alert.hosts), alert.hosts))
