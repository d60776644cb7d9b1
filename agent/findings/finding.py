"""A finding: what is wrong, where, how bad it is, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

Severity: TypeAlias = Literal["error", "warning", "info"]
ORDER: Final[dict[Severity, int]] = {"error": 0, "warning": 1, "info": 2}
MOST_NAMED: Final = 5


class Finding(msgspec.Struct, frozen=True):
    """`error`: requests fail, or something that was asked for is not in force. `warning`: they may, or it is hardly
    meant. `info`: worth knowing, and no fault."""

    id: str
    severity: Severity
    where: str
    """A key of a policy (`route/pets.production`), a service, a host, or a URL of etcd."""
    what: str
    next: str
    """What to do about it: a command, or a setting."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.next}"


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; of the same severity as they were found."""
    return sorted(dict.fromkeys(findings), key=lambda finding: ORDER[finding.severity])


def unread(key: str, reason: str) -> Finding:
    """A key that is none of ours, or one whose record is malformed: of that, `reason` begins with where in it."""
    if reason.startswith("$"):
        return Finding("unknown-key", "error", key, reason, "mend what stands there, or delete it (docs/keys.md)")
    remove = "`etcdctl del` it, and put it where it belongs (docs/keys.md)"
    return Finding("unknown-key", "error", key, reason, remove)


def named(names: Sequence[str]) -> str:
    """`a, b and c`; of many, the first."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
