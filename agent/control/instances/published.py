"""What stands in etcd of this host's instances: each one's record and its health, on the agent's lease.

Laws
- An instance is put together with its health, in one transaction: nobody sees it before it has a verdict.
- An id of a service is whose instance is there first, whoever declared which: a second one is not put, not its health
  either, and nothing is told of it; it is said who has the id. Once that is gone, it is put by itself.
- Health is written on transitions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from agent.control.host.clock import now_text
from agent.control.instances.registration import Identity, Local
from registry.keys import Keys
from registry.lease import Holder
from registry.records import Health, Instance, encode
from registry.store import Put

Events = Callable[[str, Identity, dict[str, Any]], list[Put]]
"""What a transition has to put into etcd beside its own key."""
ORDERLY: Final = {"orderly": True, "reason": "its agent stopped"}


class Published:
    """The keys of instances."""

    def __init__(self, host: str, keys: Keys, holder: Holder, events: Events, refused: Mapping[Identity, str]) -> None:
        """`refused`: instances whose health policy is not carried out, and why; it is told beside their health."""
        self._host = host
        self._keys = keys
        self._holder = holder
        self._events = events
        self._refused = refused
        self.verdicts: dict[Identity, tuple[bool, str]] = {}
        """The verdict that was put last, and why."""

    def taken(self, identity: Identity) -> str:
        """Who has an id of a service, in words; empty: nobody but us, as far as etcd has said."""
        return self._holder.taken(self._keys.instance(*identity))

    def put(self, identity: Identity, record: Instance, *, draining: bool = False) -> None:
        """An instance, as it is or on its way out."""
        key = self._keys.instance(*identity)
        told = msgspec.structs.replace(record, state="draining") if draining else record
        self._holder.put(key, encode(told), of=key)

    def put_health(
        self, identity: Identity, healthy: bool, reason: str, transition: dict[str, Any] | None = None
    ) -> None:
        """A verdict; with what an event of it says, if it is to be told."""
        self.verdicts[identity] = (healthy, reason)
        refused = self._refused.get(identity)
        told = f"{reason[:500]}; {refused}" if refused else reason
        record = Health(healthy=healthy, reason=told[:1000], since=now_text(), agent=self._host)
        name = "instance.healthy" if healthy else "instance.unhealthy"
        also: Sequence[Put] = self._events(name, identity, transition) if transition is not None else ()
        self._holder.put(self._keys.health(*identity), encode(record), also=also, of=self._keys.instance(*identity))

    def put_verdict_again(self, identity: Identity) -> None:
        """What is said beside it is different."""
        if identity in self.verdicts:
            self.put_health(identity, *self.verdicts[identity])

    def drop(self, identity: Identity, local: Local | None, *, orderly: bool, reason: str) -> None:
        """An instance is gone altogether."""
        self.verdicts.pop(identity, None)
        data: dict[str, Any] = {"orderly": orderly, "reason": reason}
        if local is not None:
            data |= {"version": local.record.version, "zone": local.record.zone}
        self._holder.drop(self._keys.instance(*identity), also=self._events("instance.gone", identity, data))
        self._holder.drop(self._keys.health(*identity))

    def farewell(self, identities: Sequence[Identity]) -> list[Put]:
        """Events that tell that every instance of this host goes, in order."""
        ours = [identity for identity in identities if not self.taken(identity)]
        return [put for identity in ours for put in self._events("instance.gone", identity, dict(ORDERLY))]

    async def settled(self) -> int:
        """Wait until etcd has it all; the revision."""
        await self._holder.settled()
        return self._holder.revision
