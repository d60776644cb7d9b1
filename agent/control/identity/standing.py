"""What stands under `identity/`, as far as this host believes it. Pure.

Laws
- A bad value never replaces a good one (law 3 of the mesh). It is kept beside, with the reason.
- Bundles only go up in sequence, and no other etcd than the one that we knew takes one away: a restored etcd brings no
  removed root back, and loses none. Revocations only grow, until what they concern would have ended.
- Grants, hosts and issuers are what etcd says: what it loses is less that somebody may.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from agent.identity.bundles import Bundle, parse_bundle, succeeds
from agent.identity.certificates import LEAST_SVID_S, MOST_SVID_S, SVID_S
from agent.identity.grants import Grant, Grants, parse_grant
from agent.identity.revocations import MAX_ENTRIES, Revocations, parse_revocations
from agent.identity.spiffe import person_id
from policies.language.duration import bounded
from policies.language.plain import Flaw
from registry.identity_records import Host, IssuerRecord, Join, Person
from registry.keys import Key, Keys, Room
from registry.records import Malformed, decode
from registry.store import Change

T = TypeVar("T")
Saved = tuple[str, str, int]
"""A key, its value, and its revision."""
NOTHING: Final = Revocations()
MOST_NAMED: Final = 16
"""Hosts that are written out."""


class IssuerSaid(NamedTuple):
    """What an operator says of an issuer."""

    chain: str
    """PEM; empty: it is to ask for one."""
    lifetime_s: float


class Standing:
    """Of one mesh."""

    def __init__(self, keys: Keys, *, elsewhere: str = "") -> None:
        """`elsewhere`: where bundles come from, if not from etcd; those that stand there are not read then."""
        self._keys = keys
        self._elsewhere = elsewhere
        self.bundle: Bundle | None = None
        """The trust domain's own; None: nothing is proven here."""
        self.federated: dict[str, Bundle] = {}
        """By trust domain."""
        self.revocations = NOTHING
        self.issuers: dict[str, IssuerSaid] = {}
        """By host."""
        self.people: dict[str, Person] = {}
        """Who may log in, by name."""
        self.grants = Grants()
        self.malformed: dict[str, str] = {}
        """Keys that are not believed, and why."""
        self.revisions: dict[str, int] = {}
        """The revision at which each key stands in etcd now, good or bad."""
        self.renew_before: dict[str, float] = {}
        """By host: certificates that began earlier are to be others (s of the epoch)."""
        self.expelled: frozenset[str] = frozenset()
        """Hosts that are revoked, and belong to the mesh no more."""
        self._services: dict[str, Grant] = {}
        self._hosts: set[str] = set()
        self._trusted = object()
        self._stored = NOTHING
        """What etcd has of the revocations."""
        self._good: dict[str, tuple[str, int]] = {}
        """What is believed, as it was put."""

    @property
    def trusted(self) -> object:
        """By which certificates are judged: the same object as long as that is the same."""
        return self._trusted

    @property
    def hosts(self) -> frozenset[str]:
        """Those of the mesh."""
        return frozenset(self._hosts)

    @property
    def bundles(self) -> dict[str, Bundle]:
        """By trust domain; the own among them."""
        own = {self.bundle.trust_domain: self.bundle} if self.bundle is not None else {}
        return {**self.federated, **own}

    # What is heard.

    def take(self, changes: Sequence[Change], now_s: float, *, whole: bool = False, another: bool = False) -> bool:
        """Take what of some changes is about identity; whether there was any. `whole`: they are everything that there
        is. `another`: of an etcd that is not the one that we knew. `now_s`: of the epoch."""
        told = {change.key for change in changes}
        if whole:
            gone = [Change(key, None, 0) for key in sorted({*self._good, *self.revisions}) if key not in told]
            changes = [*gone, *changes]
        taken = False
        for change in changes:
            key = self._keys.parse(change.key)
            if isinstance(key, Key) and key.room is Room.IDENTITY:
                self._take(key, change, now_s, another=another)
                taken = True
        if taken:
            self.grants = Grants(self._hosts, self._services)
            self.expelled = self.revocations.hosts - self._hosts
        return taken

    def _take(self, key: Key, change: Change, now_s: float, *, another: bool) -> None:
        canonical = self._keys.canonical(key)
        if change.value is None:
            self.revisions.pop(change.key, None)
            self.malformed.pop(change.key, None)
        else:
            self.revisions[change.key] = change.revision
        if canonical != change.key:
            if change.value is not None:
                self.malformed[change.key] = f"not read: it is spelled {canonical}"
            return
        try:
            self._read(key, change, now_s, another=another)
        except (ValueError, Malformed, Flaw) as error:
            self.malformed[change.key] = str(error)
            return
        except Exception as error:  # every agent reads this key: a mistake of ours must not end all of them
            self.malformed[change.key] = f"cannot be taken, by an internal error: {type(error).__name__}: {error}"
            return
        if change.value is not None:
            self.malformed.pop(change.key, None)

    def _read(self, key: Key, change: Change, now_s: float, *, another: bool) -> None:
        """Raises ValueError and Malformed for what is not believed."""
        what, whose, value = key.first, key.second, change.value
        if what in ("bundle", "trust"):
            self._read_bundle(whose, change, another=another)
        elif what == "revocations":
            self._stored = parse_revocations(value) if value is not None else NOTHING
            merged = self.revocations.merged(self._stored, now_s)
            if merged != self.revocations:
                self.revocations, self._trusted = merged, object()
        elif what == "grants":
            self._put(self._services, whose, parse_grant(value) if value is not None else None, change)
        elif what == "issuers":
            said = _issuer(decode(IssuerRecord, value)) if value is not None else None
            self._put(self.issuers, whose, said, change)
        elif what == "hosts":
            self._read_host(whose, change)
        elif what == "people":
            self._put(self.people, whose, _person(whose, value) if value is not None else None, change)
        elif value is not None:
            decode(Join, value)

    def _read_host(self, host: str, change: Change) -> None:
        if change.value is None:
            self._hosts.discard(host)
            self.renew_before.pop(host, None)
            self._good.pop(change.key, None)
        else:
            wished = decode(Host, change.value).renew_before
            self._hosts.add(host)
            self.renew_before[host] = wished.timestamp() if wished is not None else 0.0
            self._keep(change)

    def _read_bundle(self, whose: str, change: Change, *, another: bool) -> None:
        if self._elsewhere:
            if change.value is not None:
                raise ValueError(f"not read: this host's {self._elsewhere}")
            return
        held = self.federated.get(whose) if whose else self.bundle
        if change.value is None:
            if held is not None and another:
                raise ValueError("gone from an etcd that is another one than before; what was known stays in force")
            self._set_bundle(whose, None)
            self._good.pop(change.key, None)
            return
        offered = parse_bundle(whose, change.value)
        if whose and self.bundle is not None and whose == self.bundle.trust_domain:
            raise ValueError(
                f"{whose} is this mesh's own trust domain, whose bundle is {self._keys.identity('bundle')}"
            )
        if held is not None and not _says_the_same(held, offered):
            _check_follows(held, offered)
        self._set_bundle(whose, offered)
        self._keep(change)

    def believe(self, bundle: Bundle, federated: dict[str, Bundle]) -> None:
        """Bundles that come from elsewhere, all of them."""
        if (bundle, federated) != (self.bundle, self.federated):
            self._trusted = object()
            self.bundle, self.federated = bundle, federated

    def _set_bundle(self, whose: str, bundle: Bundle | None) -> None:
        self._trusted = object()
        if not whose:
            self.bundle = bundle
        elif bundle is None:
            self.federated.pop(whose, None)
        else:
            self.federated[whose] = bundle

    def _put(self, into: dict[str, T], whose: str, value: T | None, change: Change) -> None:
        if value is None:
            into.pop(whose, None)
            self._good.pop(change.key, None)
        else:
            into[whose] = value
            self._keep(change)

    def _keep(self, change: Change) -> None:
        assert change.value is not None, "what is deleted is not kept"
        self._good[change.key] = (change.value.decode(), change.revision)

    # What is asked.

    def lost_revocations(self, now_s: float) -> Revocations | None:
        """All that is revoked, where etcd lacks some of it; None: it has everything, or takes no more."""
        known = self.revocations.merged(NOTHING, now_s)
        if known == self._stored.merged(NOTHING, now_s) or len(known) > MAX_ENTRIES:
            return None
        return known

    def grant_line(self, host: str, service: str) -> str:
        """What an operator types so that a host may hold a service."""
        if host not in self._hosts:
            return self.host_line(host)
        granted = self._services.get(service)
        hosts = [*(granted.hosts if granted is not None else ()), host]
        named = json.dumps({"hosts": hosts}) if len(hosts) <= MOST_NAMED else f'{{"hosts": […, "{host}"]}}'
        return f"etcdctl put {self._keys.identity('grants', service)} '{named}'"

    def expelled_line(self, host: str) -> str:
        """That a host was put out, by whom and why: not how it is let in, which whoever reads this might just type."""
        entry = self.revocations.of("host", host)
        return f"{entry or host}; it was put out of the mesh: find out why before anybody lets it in again"

    def host_line(self, host: str) -> str:
        """What an operator types so that a host belongs to the mesh."""
        return f"etcdctl put {self._keys.identity('hosts', host)} '{{}}'"

    # What goes to disk.

    def saved(self) -> list[Saved]:
        """Everything that is believed."""
        revoked = (self._keys.identity("revocations"), self.revocations.document().decode(), 0)
        return [*((key, value, revision) for key, (value, revision) in self._good.items()), revoked]

    def load(self, saved: Iterable[Saved], now_s: float) -> None:
        """What was saved, before anything was heard."""
        self.take([Change(key, value.encode(), revision) for key, value, revision in saved], now_s)
        self._stored = NOTHING
        self.revisions.clear()


def _says_the_same(held: Bundle, offered: Bundle) -> bool:
    return held == offered._replace(refresh_s=held.refresh_s)


def _check_follows(held: Bundle, offered: Bundle) -> None:
    """Raises ValueError."""
    if offered.trust_domain != held.trust_domain:
        here = f"{held.trust_domain!r} is this mesh's, and cannot be changed"
        raise ValueError(f"$.trust_domain: {offered.trust_domain!r}; {here}")
    if not succeeds(held, offered):
        in_force = f"{held.sequence} is in force, and no agent goes back; put it with a higher one"
        raise ValueError(f"$.spiffe_sequence: {offered.sequence}; {in_force}")


def _person(name: str, value: bytes) -> Person:
    """Raises ValueError and Malformed."""
    person_id("any", name)
    return decode(Person, value)


def _issuer(record: IssuerRecord) -> IssuerSaid:
    """Raises ValueError."""
    if not record.lifetime:
        return IssuerSaid(record.chain, SVID_S)
    return IssuerSaid(record.chain, bounded("$.lifetime", record.lifetime, LEAST_SVID_S, MOST_SVID_S))
