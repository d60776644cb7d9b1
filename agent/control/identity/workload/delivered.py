"""What the Workload API has given this host, and what of it is shown. Pure.

Laws
- A delivery takes the place of the one before, whole: what is not in it any more is shown no more.
- What was given serves until it ends, whatever becomes of who gave it; nothing of it is on a disk.
- Shown is only what convinces by the bundle that came with it, by our clock, and by the mesh's revocations.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from agent.control.identity.standing import Standing
from agent.control.identity.svids import fingerprint
from agent.frames import Svid
from agent.identity.certificates import key_digest
from agent.identity.renewal import alarm_at_s, renew_at_s
from agent.identity.spiffe import SpiffeId, agent_id, service_id
from agent.identity.verdict import Refused
from agent.identity.verification import far, verify
from agent.identity.workload import Delivery, Given
from registry.identity_records import Holds
from registry.keys import AGENT_REQUEST, SERVICE_REQUEST

_ANY: Final = "<trust domain>"


class Shown(NamedTuple):
    """A certificate that convinces."""

    svid: Svid
    ends_s: float
    renew_s: float
    """When the API should have given another."""
    alarm_s: float
    root: str
    path: str = ""


class Delivered:
    """To one host."""

    def __init__(self, host: str, standing: Standing, user: int) -> None:
        """`user`: as whom the agent runs, by which SPIRE knows it."""
        self._host = host
        self._standing = standing
        self._user = user
        self._delivery: Delivery | None = None
        self._wanted: set[str] = set()
        self._held: dict[str, Shown] = {}
        self._refused: dict[str, str] = {}
        self._error = ""
        """Why the API gives nothing now; empty: it does, or was not asked yet."""

    @property
    def malformed(self) -> dict[str, str]:
        """What was not taken of what was given last, and why."""
        return self._delivery.malformed if self._delivery is not None else {}

    @property
    def error(self) -> str:
        """Why the API gives nothing now; empty: it does, or was not asked yet."""
        return self._error

    def take(self, delivery: Delivery) -> None:
        """All that is given now."""
        self._delivery, self._error = delivery, ""
        self._standing.believe(delivery.bundle, delivery.federated)

    def failed(self, reason: str) -> None:
        """Nothing comes, and why."""
        self._error = reason

    def review(self, now_s: float, services: Collection[str]) -> None:
        """Look at the clock, at what is believed, and at which services have instances here."""
        self._wanted = {AGENT_REQUEST, *(SERVICE_REQUEST + service for service in services)}
        self._held, self._refused = {}, {}
        for given in self._delivery.svids.values() if self._delivery is not None else ():
            name = self._name(given.id)
            if not name:
                continue
            shown = self._judge(given, now_s)
            if isinstance(shown, Refused):
                self._refused[name] = shown.reason
            else:
                self._held[name] = shown

    def _name(self, identity: SpiffeId) -> str:
        """As requests are called; empty: it is nobody's here."""
        if identity.service:
            return SERVICE_REQUEST + identity.service
        return AGENT_REQUEST if identity.host == self._host else ""

    def _judge(self, given: Given, now_s: float) -> Shown | Refused:
        bundle = self._standing.bundle
        chain = [each.public_bytes(Encoding.DER) for each in given.chain]
        found = verify(chain, self._standing.bundles, self._standing.revocations, now_s, given.id)
        if isinstance(found, Refused):
            return found
        begins_s = given.chain[0].not_valid_before_utc.timestamp()
        key = found.shown[-1].key
        roots = bundle.roots if bundle is not None else ()
        root = next((fingerprint(each) for each in roots if key_digest(each.public_key()) == key), "")
        svid = Svid("", "", found.ends_s, given.pem)
        renew_s, alarm_s = renew_at_s(begins_s, found.ends_s, 0.5), alarm_at_s(begins_s, found.ends_s)
        return Shown(svid, found.ends_s, renew_s, alarm_s, root)

    # What is so.

    def silent_from_s(self, now_s: float) -> float:
        """From when on it is strange that nothing new was given (s of the epoch)."""
        return min((held.alarm_s for held in self._held.values()), default=now_s)

    def wants(self, name: str) -> bool:
        """Whether it is to be held here."""
        return name in self._wanted

    def held(self) -> dict[str, Shown]:
        """By name."""
        return dict(sorted(self._held.items()))

    def shown(self) -> dict[str, Svid]:
        """For workers: by service, and under the empty name the agent's own."""
        return {
            name.removeprefix(SERVICE_REQUEST) if name != AGENT_REQUEST else "": each.svid
            for name, each in self.held().items()
        }

    def holds(self) -> Holds:
        """What the mesh is told; there is a bundle."""
        bundle = self._standing.bundle
        assert bundle is not None, "without a bundle nothing is told"
        ends = {name: datetime.fromtimestamp(int(each.ends_s), UTC) for name, each in self.held().items()}
        services = {name[len(SERVICE_REQUEST) :]: at for name, at in ends.items() if name.startswith(SERVICE_REQUEST)}
        return Holds(
            trust_domain=bundle.trust_domain,
            bundle=bundle.sequence,
            agent=ends.get(AGENT_REQUEST),
            services=services,
            roots=sorted({each.root for each in self._held.values() if each.root}),
        )

    def problems(self, now_s: float) -> dict[str, str]:
        """What cannot be proven here, or soon not any more, and why; by name."""
        found: dict[str, str] = {}
        if self._delivery is None and not self._error:
            return found
        for name in sorted(self._wanted):
            held = self._held.get(name)
            if held is None:
                why = self._refused.get(name) or self._missing(name)
                found[name] = f"there is no certificate: {why}"
            elif now_s >= held.alarm_s:
                why = self._error or "the Workload API has given none"
                found[name] = f"its certificate ends in {far(held.ends_s - now_s)}, and there is no other: {why}"
        return found

    def _missing(self, name: str) -> str:
        """Why nothing was given, with the line that would have it given."""
        if self._error:
            return f"the Workload API gives nothing: {self._error}"
        domain = self._standing.bundle.trust_domain if self._standing.bundle is not None else _ANY
        try:
            service = name.removeprefix(SERVICE_REQUEST)
            identity = agent_id(domain, self._host) if service == name else service_id(domain, service)
        except ValueError as error:
            return str(error)
        line = f"spire-server entry create -parentID <SPIRE agent> -spiffeID {identity}"
        return f"the Workload API gives none for it: {line} -selector unix:uid:{self._user}"
