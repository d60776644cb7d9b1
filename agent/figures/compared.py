"""What a candidate answers otherwise than those that serve: what all agents tell in etcd, added up."""

from __future__ import annotations

from typing import Any

import msgspec

from policies.kinds.shadow.comparison import Tally, merge, report
from policies.kinds.shadow.document import Thresholds
from policies.language.names import candidates
from registry.keys import Key, Keys, Room
from registry.records import Compared, Malformed, Rejection, decode
from registry.store import KeyValue, Store, prefix_end


class NotCompared(Exception):
    """No document has answers of a service compared."""


async def gathered(store: Store, mesh: str, service: str) -> dict[str, Any]:
    """What all agents counted under the document in force, added up and judged. Raises StoreError and NotCompared."""
    keys = Keys(mesh)
    revision = await _revision(store, keys, service)
    counted: dict[str, Compared] = {}
    left_out: dict[str, str] = {}
    for host, item in (await _told(store, keys, service)).items():
        try:
            record = decode(Compared, item.value)
        except Malformed as error:
            left_out[host] = str(error)
            continue
        if record.revision == revision:
            counted[host] = record
        else:
            left_out[host] = f"counted under revision {record.revision}"
    tally, thresholds, unreadable = added(counted)
    left_out |= unreadable
    return {
        "service": service,
        "revision": revision,
        "agents": sorted(counted.keys() - unreadable.keys()),
        "left_out": left_out,
        **report(tally, thresholds),
    }


async def _told(store: Store, keys: Keys, service: str) -> dict[str, KeyValue]:
    """What each host tells, by host: under its own key, or else where all hosts' stood before."""
    common, own = keys.tallies(service), keys.room(Room.REPORTS)
    before = await store.range(common, prefix_end(common))
    found = {item.key[len(common) :]: item for item in before.items}
    for item in (await store.range(own, prefix_end(own), revision=before.revision)).items:
        key = keys.parse(item.key)
        if isinstance(key, Key) and key.first == service:
            found[key.second] = item
    return found


async def _revision(store: Store, keys: Keys, service: str) -> int:
    """Of the shadow document that agents have in force for a service; of a refused one, the last good before it."""
    for pattern in candidates(service):
        put = await store.get(keys.policy("shadow", pattern))
        if put is None:
            continue
        rejected = await store.get(keys.rejection("shadow", pattern))
        if rejected is not None:
            try:
                refusal = decode(Rejection, rejected.value)
            except Malformed:
                return int(put.mod_revision)
            if refusal.revision == put.mod_revision:
                return max(0, refusal.last_good)
        return int(put.mod_revision)
    raise NotCompared(f"no shadow policy is for {service}; see docs/policies/shadow.md for one that compares answers")


def added(counted: dict[str, Compared]) -> tuple[Tally, Thresholds, dict[str, str]]:
    """The tallies of all hosts as one, under the thresholds of their document; and which could not be read, and why."""

    total, thresholds, unreadable = Tally(max_samples=0), Thresholds(), dict[str, str]()
    for host, record in sorted(counted.items()):
        try:
            tally = msgspec.convert(record.tally, Tally, strict=False)
            thresholds = msgspec.convert(record.thresholds, Thresholds, strict=False)
        except msgspec.ValidationError as error:
            unreadable[host] = str(error)
        else:
            total = merge(total, tally)
    return total, thresholds, unreadable
