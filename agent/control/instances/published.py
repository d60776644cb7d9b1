"""What stands in etcd of this host's instances: each one's record and its health, on the agent's lease.

Laws
- An instance is put together with its health, in one transaction: nobody sees it before it has a verdict.
- An id of a service is whose instance is there first, whoever declared which: a second one is not put, not its health
  either, and nothing is told of it; it is said who has the id. Once that is gone, it is put by itself.
- Health is written on transitions only.
- Where an instance stands is what the mesh says (`mesh.layout`): under its host's own key, where nobody else's ids
  matter, or where no two hosts may use one id. It is always in one of them: it moves in one transaction, with its
  health and on the same lease, and stays where it is while another has its id there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from agent.control.host.clock import now_text
from agent.control.instances.registration import UNCHECKED, Identity, Local
from agent.control.mesh.layout import other
from agent.control.mesh.table import Table
from registry.keys import Keys, own
from registry.lease import Holder
from registry.records import Health, Instance, encode
from registry.store import Put

Events = Callable[[str, Identity, dict[str, Any]], list[Put]]
"""What a transition has to put into etcd beside its own key."""
ORDERLY: Final = {"orderly": True, "reason": "its agent stopped"}


class Published:
    """The keys of instances."""

    def __init__(
        self,
        host: str,
        keys: Keys,
        holder: Holder,
        events: Events,
        refused: Mapping[Identity, str],
        table: Table,
    ) -> None:
        """`refused`: instances whose health policy is not carried out, and why; it is told beside their health."""
        self._host = host
        self._keys = keys
        self._holder = holder
        self._events = events
        self._refused = refused
        self._table = table
        self._own: dict[Identity, bool] = {}
        """Which of them stand, or are to stand, under the host's own key."""
        self._records: dict[Identity, Instance] = {}
        self._healths: dict[Identity, Health] = {}
        self.verdicts: dict[Identity, tuple[bool, str]] = {}
        """The verdict that was put last, and why."""

    def named(self, identity: Identity) -> Identity:
        """What the mesh calls an instance of this host."""
        service, id = identity
        return (service, own(id, self._host)) if self._own.get(identity, self._table.forms.own) else identity

    def local(self, service: str, id: str) -> Identity:
        """What this agent calls an instance, by either of its names."""
        return service, id.removesuffix(own("", self._host))

    def standing(self, identity: Identity) -> tuple[Instance, Health | None] | None:
        """What the table has of an instance of this host, under either key."""
        for service, id in (self.named(identity), other(self.named(identity), self._host)):
            known = self._table.services.get(service)
            record = known.instances.get(id) if known is not None else None
            if known is not None and record is not None and record.agent == self._host:
                return record, known.health.get(id)
        return None

    def taken(self, identity: Identity) -> str:
        """Who has an id of a service, in words; empty: nobody but us, as far as etcd has said."""
        return self._holder.taken(self._keys.instance(*self.named(identity)))

    def foreign(self, identity: Identity) -> Instance | None:
        """What another has under the key that an instance is to stand at, as far as the table knows."""
        service, id = self.named(identity)
        known = self._table.services.get(service)
        standing = known.instances.get(id) if known is not None else None
        return standing if standing is not None and standing.agent != self._host else None

    def put(self, identity: Identity, record: Instance, *, draining: bool = False) -> None:
        """An instance, as it is or on its way out."""
        new = identity not in self._records
        self._own.setdefault(identity, self._table.forms.own)
        self._records[identity] = msgspec.structs.replace(record, state="draining") if draining else record
        self._put(identity)
        if new:
            self._supersede(self._other(identity), self.named(identity))

    def _put(self, identity: Identity) -> None:
        key = self._keys.instance(*self.named(identity))
        self._holder.put(key, encode(self._told(identity, self._records[identity])), of=key)

    def _told(self, identity: Identity, record: Instance | Health) -> Instance | Health:
        """As it is written: a host's own key says whose it is."""
        return msgspec.structs.replace(record, agent="") if self._own[identity] else record

    def put_health(
        self, identity: Identity, healthy: bool, reason: str, transition: dict[str, Any] | None = None
    ) -> None:
        """A verdict; with what an event of it says, if it is to be told."""
        self.verdicts[identity] = (healthy, reason)
        refused = self._refused.get(identity)
        told = f"{reason[:500]}; {refused}" if refused else reason
        self._healths[identity] = Health(healthy=healthy, reason=told[:1000], since=now_text(), agent=self._host)
        name = "instance.healthy" if healthy else "instance.unhealthy"
        self._put_health(
            identity, self._events(name, self.named(identity), transition) if transition is not None else ()
        )

    def _put_health(self, identity: Identity, also: Sequence[Put] = ()) -> None:
        self._own.setdefault(identity, self._table.forms.own)
        name = self.named(identity)
        record = encode(self._told(identity, self._healths[identity]))
        self._holder.put(self._keys.health(*name), record, also=also, of=self._keys.instance(*name))

    # Moving.

    def follow(self) -> None:
        """Have each instance stand where the mesh says. Back where ids are common, only what no other has there."""
        if self._table.forms.layout is None:
            return
        for identity in [identity for identity, there in self._own.items() if there != self._table.forms.own]:
            self._move(identity)

    def _move(self, identity: Identity) -> None:
        before, self._own[identity] = self.named(identity), self._table.forms.own
        if self.foreign(identity) is not None and not self._own[identity]:
            self._own[identity] = True
            return
        self._put(identity)
        if identity in self._healths:
            self._put_health(identity, self._told_again(identity))
        self._supersede(before, self.named(identity))

    def _told_again(self, identity: Identity) -> list[Put]:
        """What is ill is so under its other name: what was opened for it is closed with that, and opened with this."""
        healthy, reason = self.verdicts[identity]
        if healthy or reason == UNCHECKED:
            return []
        data = {"before": "unhealthy", "after": "unhealthy", "reason": reason}
        return self._events("instance.unhealthy", self.named(identity), data)

    def _other(self, identity: Identity) -> Identity:
        return other(self.named(identity), self._host)

    def _supersede(self, before: Identity, after: Identity) -> None:
        """What stood at the other key, here or of a process before this one, goes with the put of this one."""
        known = self._table.services.get(before[0])
        standing = known.instances.get(before[1]) if known is not None else None
        keys, stands = self._keys, standing is not None and standing.agent == self._host
        before_keys = (keys.instance(*before), keys.health(*before))
        self._holder.supersede(before_keys, before_keys[0], keys.instance(*after), stands=stands)

    def put_verdict_again(self, identity: Identity) -> None:
        """What is said beside it is different."""
        if identity in self.verdicts:
            self.put_health(identity, *self.verdicts[identity])

    def drop(self, identity: Identity, local: Local | None, *, orderly: bool, reason: str) -> None:
        """An instance is gone altogether."""
        self.verdicts.pop(identity, None)
        name = self.named(identity)
        for of in (self._own, self._records, self._healths):
            of.pop(identity, None)
        data: dict[str, Any] = {"orderly": orderly, "reason": reason}
        if local is not None:
            data |= {"version": local.record.version, "zone": local.record.zone}
        self._holder.drop(self._keys.instance(*name), also=self._events("instance.gone", name, data))
        self._holder.drop(self._keys.health(*name))

    def farewell(self, identities: Sequence[Identity]) -> list[Put]:
        """Events that tell that every instance of this host goes, in order."""
        ours = [identity for identity in identities if not self.taken(identity)]
        return [put for identity in ours for put in self._events("instance.gone", self.named(identity), dict(ORDERLY))]

    async def settled(self) -> int:
        """Wait until etcd has it all; the revision."""
        await self._holder.settled()
        return self._holder.revision
