"""Which records are instances, and under which of two keys each stands. Pure.

Agents write what is theirs under `hosts/<host>/`, or where it stood before there was that.

Laws
- An operator says which, by one key. That it is gone says nothing: whoever knew it goes on by it, and has it put again,
  so that a deletion by mistake, or an etcd that was restored, moves nobody.
- As long as agents move, an instance counts wherever it stands. Once they have moved, a record at a key that is no
  host's own speaks for no host: it is a person's, or of an agent that does not know where to write.
- An instance that stands under its other key in the same revision has moved, and neither came nor went.
- No record leads a request to where an agent listens instead of an instance, whoever wrote it (`own_ports`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.control.host.own_ports import OwnPorts
from agent.control.mesh.owners import Owners
from agent.control.mesh.service import Service, endpoint_of
from agent.frames import EndpointFrame
from registry.keys import Keys, own, owner_of
from registry.records import Instance, Layout, Malformed, decode
from registry.store import Change

Identity = tuple[str, str]
NOBODYS = "$.agent: a record speaks for an agent at a key that is not its host's: those stand under hosts/ in this mesh"


class Forms:
    """What is known of the two forms of keys, in one mesh."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services
        self.layout: Layout | None = None
        """None: nobody has ever said; then agents write as they did before there was `hosts/`."""
        self.stands = False
        """Whether it stands in etcd, as far as it was heard."""
        self.removed: dict[Identity, str] = {}
        """Instances that the changes at hand delete, and whose each was."""
        self.since = 0
        """The revision at which it was said what stands."""
        self.moved: dict[Identity, Identity] = {}
        """Those of the last changes that stand under their other key: where they stood, by where they stand."""

    @property
    def own(self) -> bool:
        """Whether agents write under their hosts' own keys."""
        return self.layout is not None and self.layout.own

    def has(self, room: str) -> bool:
        """Whether agents write a room of `registry.keys.MOVING` under their hosts' own keys."""
        return self.layout is not None and self.layout.has(room)

    def is_late(self, created: int) -> bool:
        """Whether an event that stands whole in the room that hosts share was put after none was to be put there."""
        settled = self.layout is not None and self.layout.state == "own_only" and self.layout.has("events")
        return settled and created > self.since

    def take(self, change: Change) -> str | None:
        """What an operator says; why that says nothing, if it does not."""
        self.stands = change.value is not None
        if change.value is None:
            return None
        try:
            self.layout = decode(Layout, change.value)
            self.since = change.revision
        except Malformed as error:
            return str(error)
        return None

    def spoken_for(self) -> Iterator[tuple[str, list[str]]]:
        """Instances that name an agent at a key that is no host's own, by service."""
        for name, service in self._services.items():
            found = [id for id, record in service.instances.items() if record.agent and not owner_of(id)]
            if found:
                yield name, found

    def refusal(self, identity: str, record: Instance) -> str:
        """Why a record is no instance; empty: it is one."""
        settled = self.layout is not None and self.layout.state == "own_only"
        return NOBODYS if settled and record.agent and not owner_of(identity) else ""

    def settle(self) -> Iterator[Identity]:
        """Of the instances that the changes at hand deleted, those that have only moved."""
        removed, self.removed, self.moved = self.removed, {}, {}
        for identity, host in removed.items():
            service, id = after = other(identity, host) if host else identity
            record = self._services[service].instances.get(id)
            if host and record is not None and record.agent == host:
                self.moved[after] = identity
                yield identity


class Endpoints:
    """What workers get of records, on this host."""

    def __init__(self, keys: Keys, host: str, own: OwnPorts, owners: Owners, forms: Forms) -> None:
        """`own`: what no request is dialled to as to an instance."""
        self._keys = keys
        self._host = host
        self._own = own
        self._owners = owners
        self._forms = forms
        self.refused: dict[str, str] = {}
        """Keys of instances that are none, and why."""

    def of(self, name: str, service: Service, identity: str) -> EndpointFrame | None:
        """An instance or a suspect; None where there is none that could be dialled, and noted why."""
        record = service.instances.get(identity)
        if record is None:
            return service.suspects.get(identity)
        owner = None if record.agent == self._host else self._owners.agents.get(record.agent)
        until = self._owners.secured_until(record.agent, name)
        made = endpoint_of(identity, record, service.health.get(identity), owner, until)
        why = self._forms.refusal(identity, record) or self._not_dialled(made)
        if why:
            self.refused[self._keys.instance(name, identity)] = why
            return None
        self.refused.pop(self._keys.instance(name, identity), None)
        return made

    def all(self, name: str, service: Service) -> list[EndpointFrame]:
        """By id, suspects last."""
        identities = [*sorted(service.instances), *sorted(service.suspects)]
        made = [self.of(name, service, identity) for identity in identities]
        return [each for each in made if each is not None]

    def forget(self, name: str, identity: str) -> bool:
        """Its record is gone; whether it was none."""
        return bool(self.refused.pop(self._keys.instance(name, identity), ""))

    def _not_dialled(self, endpoint: EndpointFrame) -> str:
        """Which agent's listener would be dialled instead of an instance; empty: none."""
        reached = self._own.reached_by if endpoint.via else self._own.belongs
        listener = reached(endpoint.dial_address, endpoint.dial_port)
        if not listener:
            return ""
        return f"$.port: {endpoint.dial_address}:{endpoint.dial_port} is {listener}, and no instance"


def other(identity: Identity, host: str) -> Identity:
    """What an instance of a host is called under its other key."""
    service, id = identity
    return service, id.partition("@")[0] if owner_of(id) else own(id, host)
