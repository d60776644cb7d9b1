"""Mass deletion is distrusted (law 4): when a judgement of etcd's would empty the mesh, the last known endpoints stay.

An etcd that was restored empty, a `del --prefix` by mistake, leases that ran out behind a partition: all of them look
like the end of every service. Instances that left in order had been `draining` before. So when one update takes away
every endpoint of several services, and at least half of the mesh, without a word of draining, they stay in the table
as suspects, are used when nothing else is left, and are probed until they answer for themselves or do not.
"""

from __future__ import annotations

from typing import Final, NamedTuple

EMPTIED_SERVICES: Final = 2
SHARE: Final = 0.5
FAILURES: Final = 3
"""Probes in a row that time out before a suspect is dropped; one refusal is enough."""


class Suspect(NamedTuple):
    """An endpoint whose record vanished, and where to ask it whether it lives."""

    service: str
    id: str
    address: str
    port: int


def is_mass_deletion(instances_before: int, removed: int, emptied: int) -> bool:
    """Whether the deletion of so many instances, which empties so many services, is not to be believed."""
    return emptied >= EMPTIED_SERVICES and removed >= SHARE * instances_before
