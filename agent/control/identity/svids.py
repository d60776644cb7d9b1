"""The keys and certificates of this host: what is wanted, what is held, and when to ask. Pure.

Laws
- Asked for is only what a grant names; what is registered without one is told, with the line that would allow it.
- Taken is only what is for a key of ours, leads to the bundle and is the name that was asked for.
- What has ended, is revoked, or leads to no root of the bundle any more is not shown, whoever has no other.
- Renewed by the clock, asked again at each look: what a clock that jumps makes due is due.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from agent.control.identity.files import Kept
from agent.control.identity.standing import Standing
from agent.frames import Svid
from agent.identity.certificates import BACKDATE_S, ROOT_S, Issuer, Terms, key_digest, make_request, make_svid
from agent.identity.renewal import MOST_WAIT_S, alarm_at_s, renew_at_s, wait_s
from agent.identity.spiffe import SpiffeId, agent_id, service_id
from agent.identity.verdict import Identity, Refused
from agent.identity.verification import far, verify
from registry.identity_records import Holds
from registry.keys import AGENT_REQUEST, ISSUER_REQUEST, SERVICE_REQUEST

LINGER_S: Final = 600.0
"""How long what a service held is good after its last instance has left: it finishes what it began."""
LEAST_BETWEEN_S: Final = 60.0
"""Between two renewals: what ends with its issuer is not made longer by asking."""
_NOBODY: Final = "and nobody who can sign has answered"
_OPERATOR: Final = "an operator has to sign what it asks for: `shoal ca rotate intermediate`"


class Held(NamedTuple):
    """A certificate that convinces by our own bundle and clock."""

    kept: Kept
    begins_s: float
    ends_s: float
    renew_s: float
    alarm_s: float
    root: str
    """SHA-256 (hex) of the root that it leads to."""

    @property
    def path(self) -> str:
        """Where workers read it."""
        return str(self.kept.path)


class _Entry:
    """Of one name."""

    __slots__ = (
        "asked",
        "before",
        "csr",
        "held",
        "idle",
        "left_s",
        "next_s",
        "offered",
        "pending",
        "refused",
        "wished_s",
    )

    def __init__(self) -> None:
        self.held: Held | None = None
        self.idle: Kept | None = None
        """One that does not convince now, and may by another clock or bundle."""
        self.pending: Kept | None = None
        """A key that has no certificate yet."""
        self.csr = ""
        self.before: Kept | None = None
        """Held before that: a worker may be about to read it."""
        self.asked = 0
        """How often in vain."""
        self.next_s = 0.0
        self.refused = ""
        """Why there is none, as was said last."""
        self.wished_s = 0.0
        """An operator's wish for another that was met (s of the epoch)."""
        self.offered = ""
        """What an operator signed, as it was looked at last."""
        self.left_s: float | None = None
        """Since when its service is not registered here; None: it is."""


class Svids:
    """Of one host."""

    def __init__(self, host: str, standing: Standing, *, linger_s: float = LINGER_S) -> None:
        self._host = host
        self._standing = standing
        self._linger_s = linger_s
        self._entries: dict[str, _Entry] = {}
        self._wanted: set[str] = set()
        self._trusted: object = None
        """By what all that is held was judged."""
        self.lacking: dict[str, str] = {}
        """What is registered here and may not be held, and what would allow it."""

    # What is wanted.

    def want(self, services: Collection[str]) -> None:
        """Which services have instances here now."""
        standing, host = self._standing, self._host
        self._wanted, self.lacking = set(), {}
        if standing.bundle is None:
            return
        if host in standing.issuers:
            self._wanted.add(ISSUER_REQUEST)
        if host in standing.expelled:
            self.lacking[AGENT_REQUEST] = standing.expelled_line(host)
        elif host not in standing.hosts:
            self.lacking[AGENT_REQUEST] = f"no operator has added this host: {standing.host_line(host)}"
        else:
            self._wanted.add(AGENT_REQUEST)
        for service in services:
            name = SERVICE_REQUEST + service
            if standing.grants.pattern_for(host, service):
                self._wanted.add(name)
            elif host in standing.expelled:
                self.lacking[name] = standing.expelled_line(host)
            else:
                self.lacking[name] = f"no grant lets {host} hold it: {standing.grant_line(host, service)}"
        for name in list(self._wanted):
            try:
                self._expected(name)
            except ValueError as error:
                self._wanted.discard(name)
                self.lacking[name] = str(error)

    def review(self, now_s: float, chance: float = 0.5) -> list[tuple[str, list[Kept]]]:
        """Look at the clock and at what is trusted; what is let go of, by name, and its files. `chance`: in [0, 1)."""
        for name in self._wanted:
            self._entries.setdefault(name, _Entry())
        gone: list[tuple[str, list[Kept]]] = []
        anew = self._trusted is not self._standing.trusted
        for name, entry in list(self._entries.items()):
            self._look(entry, now_s, chance)
            entry.offered = "" if anew else entry.offered
            if name in self._wanted or name in self.lacking or self._standing.bundle is None:
                entry.left_s = None
            elif entry.left_s is None:
                entry.left_s = now_s
            if entry.left_s is not None and self._has_left(name, entry, entry.left_s, now_s):
                del self._entries[name]
                gone.append((name, _files(entry)))
            elif name in self.lacking and entry.pending is not None:
                gone.append((name, [entry.pending]))
                entry.pending, entry.csr = None, ""
        self._trusted = self._standing.trusted
        return gone

    def _look(self, entry: _Entry, now_s: float, chance: float) -> None:
        held = entry.held
        if held is not None:
            if self._trusted is self._standing.trusted and held.begins_s <= now_s < held.ends_s:
                return
            judged = self._judge(held.kept, now_s)
            if isinstance(judged, Identity):
                entry.held = held._replace(ends_s=judged.ends_s, root=self._root(judged))
                return
            entry.refused, entry.idle, entry.held = judged.reason, held.kept, None
            entry.next_s = 0.0
        elif entry.idle is not None:
            judged = self._judge(entry.idle, now_s)
            if isinstance(judged, Identity):
                entry.held = self._as_held(entry.idle, judged, now_s, chance)
                entry.idle, entry.refused = None, ""

    def _has_left(self, name: str, entry: _Entry, left_s: float, now_s: float) -> bool:
        lingers = name.startswith(SERVICE_REQUEST) and entry.held is not None
        return not lingers or not 0 <= now_s - left_s < self._linger_s

    # Asking.

    def due(self, now_s: float) -> list[str]:
        """For what is to be asked now."""
        found = []
        for name in sorted(self._wanted):
            entry = self._entries.setdefault(name, _Entry())
            if entry.next_s > now_s + MOST_WAIT_S:  # the clock was set back
                entry.next_s = now_s
            missing = entry.pending is not None or entry.held is None or now_s >= entry.held.renew_s
            wished_s = self._standing.renew_before.get(self._host, 0.0)
            if entry.held is not None and entry.held.begins_s + BACKDATE_S < wished_s != entry.wished_s:
                missing = missing or name != ISSUER_REQUEST
            missing = missing or (name == ISSUER_REQUEST and not self._standing.issuers[self._host].chain)
            if missing and now_s >= entry.next_s:
                found.append(name)
        return found

    def pending(self, name: str) -> str:
        """The request that is asked with (PEM); empty: there is no key for one."""
        entry = self._entries.get(name)
        return entry.csr if entry is not None and entry.pending is not None else ""

    def made_key(self, kept: Kept) -> None:
        """A key to ask with."""
        entry = self._entries.setdefault(kept.name, _Entry())
        entry.pending, entry.csr = kept, make_request(kept.key).decode()

    def asked(self, name: str, now_s: float, chance: float) -> None:
        """It was, or could not be; if nothing comes of it, again later."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.asked += 1
            entry.next_s = now_s + wait_s(entry.asked, chance)

    def refused(self, name: str, reason: str) -> None:
        """Why there was none, the last time."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.refused = reason

    # Answers.

    def fitting(self, name: str, chain_pem: str, now_s: float) -> Kept | None:
        """What came for a key of ours, and is worth keeping; why it is not, if so, is remembered."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        try:
            chain = tuple(x509.load_pem_x509_certificates(chain_pem.encode()))
            digest = key_digest(chain[0].public_key())
        except (ValueError, AttributeError, TypeError) as error:
            entry.refused = f"what came is no chain of certificates (PEM): {str(error)[:120]}"
            return None
        held = entry.held.kept if entry.held is not None else None
        ours = next((kept for kept in (entry.pending, held) if kept is not None and _digest(kept) == digest), None)
        if ours is None or (held is not None and held.chain == chain):
            return None  # of another key, as of a run before; or it is held already
        candidate = Kept(name, ours.path, ours.key, chain)
        judged = self._judge(candidate, now_s)
        if isinstance(judged, Refused):
            entry.refused = judged.reason
            return None
        return candidate

    def is_news(self, name: str, chain_pem: str) -> bool:
        """Whether a chain is another one than was looked at last."""
        entry = self._entries.get(name)
        if entry is None or entry.offered == chain_pem:
            return False
        entry.offered = chain_pem
        return True

    def took(self, kept: Kept, now_s: float, chance: float) -> list[Kept]:
        """It is on disk; which files are of no more use."""
        entry = self._entries.setdefault(kept.name, _Entry())
        judged = self._judge(kept, now_s)
        if isinstance(judged, Refused):
            entry.refused = judged.reason
            return [kept]
        useless = [each for each in (entry.before, entry.idle) if each is not None]
        entry.before = entry.held.kept if entry.held is not None else None
        entry.held, entry.idle = self._as_held(kept, judged, now_s, chance), None
        entry.pending, entry.csr, entry.refused, entry.asked, entry.next_s = None, "", "", 0, 0.0
        entry.wished_s = self._standing.renew_before.get(self._host, 0.0)
        return useless

    def _as_held(self, kept: Kept, judged: Identity, now_s: float, chance: float) -> Held:
        begins_s = _begins_s(kept)
        renew_s = max(renew_at_s(begins_s, judged.ends_s, chance), now_s + LEAST_BETWEEN_S)
        return Held(kept, begins_s, judged.ends_s, renew_s, alarm_at_s(begins_s, judged.ends_s), self._root(judged))

    def load(self, found: Iterable[Kept], now_s: float, chance: float) -> list[Kept]:
        """What was on disk: of each name the latest, and the key that was asked with; which files are of no use. What
        does not convince now is kept: the clock of a host that starts may be anything."""
        useless: list[Kept] = []
        for kept in sorted(found, key=_begins_s):
            entry = self._entries.setdefault(kept.name, _Entry())
            if not kept.chain:
                useless += [entry.pending] if entry.pending is not None else []
                self.made_key(kept)
                continue
            judged = self._judge(kept, now_s)
            if isinstance(judged, Refused):
                useless += [entry.idle] if entry.idle is not None else []
                entry.idle, entry.refused = kept, judged.reason
                continue
            useless += [entry.held.kept] if entry.held is not None else []
            entry.held = self._as_held(kept, judged, now_s, chance)
        return useless

    def _judge(self, kept: Kept, now_s: float) -> Identity | Refused:
        """Whether it convinces; an intermediate does by what it signs."""
        bundle = self._standing.bundle
        if bundle is None:
            return Refused("no trust bundle stands")
        chain = kept.chain
        try:
            if kept.name == ISSUER_REQUEST:
                terms = Terms(1, now_s, ROOT_S)  # as long as it may sign for
                ours = Issuer(chain[0], kept.key)
                chain = (make_svid(ours, kept.key.public_key(), self._expected(kept.name), self._host, terms), *chain)
            shown = [each.public_bytes(serialization.Encoding.DER) for each in chain]
            expected = self._expected(kept.name)
        except (ValueError, x509.ExtensionNotFound) as error:
            return Refused(str(error))
        own = {bundle.trust_domain: bundle}
        return verify(shown, own, self._standing.revocations, now_s, expected)

    def _expected(self, name: str) -> SpiffeId:
        """Raises ValueError."""
        bundle = self._standing.bundle
        domain = bundle.trust_domain if bundle is not None else ""
        if name.startswith(SERVICE_REQUEST):
            return service_id(domain, name.removeprefix(SERVICE_REQUEST))
        return agent_id(domain, self._host)

    def _root(self, identity: Identity) -> str:
        key = identity.shown[-1].key
        bundle = self._standing.bundle
        roots = bundle.roots if bundle is not None else ()
        return next((fingerprint(root) for root in roots if key_digest(root.public_key()) == key), "")

    # What is so.

    def in_vain(self, name: str) -> int:
        """How often it was asked for since there was an answer."""
        entry = self._entries.get(name)
        return entry.asked if entry is not None else 0

    def wants(self, name: str) -> bool:
        """Whether it is asked for."""
        return name in self._wanted

    def names(self) -> set[str]:
        """What is wanted or held."""
        return {*self._entries, *self._wanted}

    def holds(self) -> Holds:
        """What the mesh is told; there is a bundle."""
        bundle, held = self._standing.bundle, self.held()
        assert bundle is not None, "without a bundle nothing is told"
        ends = {name: datetime.fromtimestamp(int(each.ends_s), UTC) for name, each in held.items()}
        return Holds(
            trust_domain=bundle.trust_domain,
            bundle=bundle.sequence,
            agent=ends.get(AGENT_REQUEST),
            services={
                name[len(SERVICE_REQUEST) :]: at for name, at in ends.items() if name.startswith(SERVICE_REQUEST)
            },
            roots=sorted({each.root for each in held.values() if each.root}),
        )

    def held(self) -> dict[str, Held]:
        """By name."""
        return {name: entry.held for name, entry in sorted(self._entries.items()) if entry.held is not None}

    def shown(self) -> dict[str, Svid]:
        """For workers: by service, and under the empty name the agent's own."""
        found: dict[str, Svid] = {}
        for name, held in self.held().items():
            if name != ISSUER_REQUEST:
                path = str(held.kept.path)
                found[name.removeprefix(SERVICE_REQUEST) if name != AGENT_REQUEST else ""] = Svid(
                    path, path, held.ends_s
                )
        return found

    def problems(self, now_s: float) -> dict[str, str]:
        """What cannot be proven here, or soon not any more, and why; by name."""
        found = dict(self.lacking)
        for name in sorted(self._wanted):
            entry = self._entries.get(name)
            if entry is None or (entry.asked < 2 and not entry.refused and entry.held is None):
                continue
            why = entry.refused or (_OPERATOR if name == ISSUER_REQUEST else f"asked {entry.asked} times, {_NOBODY}")
            if entry.held is None:
                found[name] = f"there is no certificate: {why}"
            elif now_s >= entry.held.alarm_s:
                found[name] = f"its certificate ends in {far(entry.held.ends_s - now_s)}, and there is no other: {why}"
        return found


def _files(entry: _Entry) -> list[Kept]:
    held = entry.held.kept if entry.held is not None else None
    return [kept for kept in (held, entry.pending, entry.before, entry.idle) if kept is not None]


def _begins_s(kept: Kept) -> float:
    return kept.chain[0].not_valid_before_utc.timestamp() if kept.chain else 0.0


def _digest(kept: Kept) -> str:
    return key_digest(kept.key.public_key())


def fingerprint(root: x509.Certificate) -> str:
    """SHA-256, hex: as bundles and the mesh are told of it."""
    return root.fingerprint(hashes.SHA256()).hex()
