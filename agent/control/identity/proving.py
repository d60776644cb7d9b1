"""What an agent proves and believes, wherever its certificates come from: shown to its workers, asked with, told.

Law: everything is looked at again by the clock (`TICK_S`), whatever woke whom: no certificate ends unseen, and a clock
that jumps is seen with the next look.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from agent.control.identity.around import Around
from agent.control.identity.asking import Publishing
from agent.control.identity.files import Files
from agent.control.identity.standing import Standing
from agent.control.identity.way import Way, client_context, open_server_context, server_context
from agent.frames import Svid, Trust
from agent.identity.spiffe import agent_id
from agent.identity.verdict import Refused, Visitor
from agent.identity.verification import verify
from agent.process.memory_file import memory_file
from registry.identity_records import Holds
from registry.keys import SERVICE_REQUEST
from registry.records import encode
from registry.store import Change

TICK_S: Final = 5.0
SAVE_AFTER_S: Final = 0.5
SHORT_S: Final = 0.1
"""At least so long between two looks, however much happens."""
OF_AGENT: Final = "agent.shoal"
"""What the agent itself is called in events; no service can be called so."""
log = structlog.get_logger()


class Lasting(Protocol):
    """A certificate that is held."""

    @property
    def ends_s(self) -> float:
        """Of the epoch: when the first of its chain ends."""
        ...

    @property
    def renew_s(self) -> float:
        """From when on there should be another."""
        ...

    @property
    def root(self) -> str:
        """SHA-256 (hex) of the root that it leads to."""
        ...

    @property
    def path(self) -> str:
        """Where it is read from; empty: it is in memory."""
        ...


class Source(Protocol):
    """Where certificates come from, as they are now; by name as requests are called: agent, svc/<service>."""

    def held(self) -> Mapping[str, Lasting]:
        """What convinces by our own bundle and clock."""
        ...

    def shown(self) -> dict[str, Svid]:
        """For workers: by service, and under the empty name the agent's own."""
        ...

    def holds(self) -> Holds:
        """What the mesh is told; there is a bundle."""
        ...

    def problems(self, now_s: float) -> dict[str, str]:
        """What cannot be proven here, or soon not any more, and why."""
        ...

    def wants(self, name: str) -> bool:
        """Whether it is to be held here."""
        ...


class Proving:
    """One agent's."""

    def __init__(self, around: Around, standing: Standing, source: Source) -> None:
        self._around = around
        self._source = source
        self.standing = standing
        self.files = Files(around.folder, around.keys.mesh)
        self.publishing = Publishing(around.store, around.keys.trust(around.host), around.lease, around.proves)
        self.trust = Trust()
        self.problems: dict[str, str] = {}
        """What cannot be proven here, and why, as it was told; by name of the request."""
        self._wake = trio.Event()
        self._unsaved = trio.Event()
        self._contexts: dict[object, tuple[object, ssl.SSLContext]] = {}
        """What this agent shows when it asks others, and when it is asked; by what made them, and as of what."""
        self._ways: dict[str, Way] = {}
        """All of one context."""
        self._services: frozenset[str] = frozenset()
        self._roots: tuple[object, dict[str, list[bytes]], bytes] = (None, {}, b"")
        """By what certificates are judged, and how workers are told of it."""

    def wake(self) -> None:
        """Look at everything soon."""
        self._wake.set()

    def hear(self, changes: Sequence[Change], *, whole: bool, another: bool) -> None:
        """What happened in etcd."""
        for change in changes:
            self.publishing.hear(change.key, change.value)
        if self.standing.take(changes, self._around.clock(), whole=whole, another=another):
            self._unsaved.set()
            self._heard()
            self.wake()
        elif self._services != frozenset(self._around.services()):
            self.wake()

    def _heard(self) -> None:
        """Something of identity stands otherwise."""

    async def first(self) -> None:
        """Wait, not for long, for what is to be shown first and is on no disk: nothing."""

    def handed_over(self) -> bytes:
        """What is on no disk, for the process that is executed next."""
        return b""

    # By the clock.

    async def _looking(self) -> None:
        """Until cancelled."""
        while True:
            self._wake = trio.Event()
            self._look()
            await trio.sleep(SHORT_S)
            with trio.move_on_after(min(TICK_S, self._first_end_s())):
                await self._wake.wait()

    def _first_end_s(self) -> float:
        """How long until something ends."""
        ends = (held.ends_s for held in self._source.held().values())
        return max(0.0, min(ends, default=math.inf) - self._around.clock())

    def _look(self) -> None:
        """At the clock, at what is registered, and at what is believed; whatever is new of it is shown and told."""
        raise NotImplementedError

    def _show(self) -> None:
        """What is held now: to workers, and to the mesh."""
        trust = self._trust()
        if trust != self.trust:
            self.trust = trust
            self._around.prove(trust)
        self.publishing.want(encode(self._source.holds()) if self.standing.bundle is not None else None)

    def _trust(self) -> Trust:
        standing = self.standing
        if standing.bundle is None:
            return Trust()
        if self._roots[0] is not standing.trusted:
            bundles = {
                domain: [root.public_bytes(Encoding.DER) for root in each.roots]
                for domain, each in sorted(standing.bundles.items())
            }
            revoked = standing.revocations.document() if len(standing.revocations) else b""
            self._roots = (standing.trusted, bundles, revoked)
        shown = self._source.shown()
        return Trust(standing.bundle.trust_domain, shown, *self._roots[1:], self._around.strict() and "" in shown)

    async def _save(self) -> None:
        """What is believed, whenever it is something else; until cancelled."""
        while True:
            await self._unsaved.wait()
            await trio.sleep(SAVE_AFTER_S)
            self._unsaved = trio.Event()
            await self._around.disk(self.files.save, self.standing.saved())

    # Peers.

    def way(self, host: str) -> Way | None:
        """How to ask another host's agent; None: this one can prove nothing."""
        context = self._made(client_context)
        if context is None:
            return None
        if any(way.context is not context for way in self._ways.values()):
            self._ways.clear()
        if host not in self._ways:
            self._ways[host] = Way(context, OF_AGENT, partial(self._judge_agent, host))
        return self._ways[host]

    def _made(self, make: Callable[[Path, Iterable[bytes]], ssl.SSLContext]) -> ssl.SSLContext | None:
        """Of the agent's own SVID and the own bundle, as they are now; None: one of them is not there."""
        svid, bundle = self._source.shown().get(""), self.standing.bundle
        if svid is None or bundle is None:
            return None
        marks = (svid, self.standing.trusted)
        had = self._contexts.get(make)
        if had is not None and had[0] == marks:
            return had[1]
        roots = [root.public_bytes(Encoding.DER) for root in bundle.roots]
        try:
            with memory_file(svid.pem) if svid.pem else nullcontext(Path(svid.chain)) as path:
                made = make(path, roots)
        except OSError as error:
            log.warning("the agent's own certificate cannot be read", error=str(error))
            return None
        self._contexts[make] = (marks, made)
        return made

    def _judge_agent(self, host: str, chain: list[bytes]) -> str:
        bundle = self.standing.bundle
        try:
            expected = agent_id(bundle.trust_domain if bundle is not None else "", host)
        except ValueError as error:
            return str(error)
        found = verify(chain, self.standing.bundles, self.standing.revocations, self._around.clock(), expected)
        return found.reason if isinstance(found, Refused) else ""

    # People.

    def door(self, *, tokens: bool = False) -> ssl.SSLContext | None:
        """What people who ask this agent are shown, and have to show, where it does not take tokens instead; None: it
        can prove nothing."""
        return self._made(open_server_context if tokens else server_context)

    def visitor(self, chain: Sequence[bytes]) -> Visitor | Refused:
        """Who asks, by the chain (DER) of a connection, by all that is known now."""
        bundle = self.standing.bundle
        if bundle is None:
            return Refused("no trust bundle is known here, so nobody is")
        found = verify(chain, {bundle.trust_domain: bundle}, self.standing.revocations, self._around.clock())
        if isinstance(found, Refused):
            return found
        name = found.id.person
        if not name:
            return Refused(f"{found.id} is no person; an agent's API is for people who have logged in (`shoal login`)")
        person = self.standing.people.get(name)
        if person is None:
            return Refused(f"{name} is nobody of this mesh any more; `shoal person add {name}` lets {name} in")
        return Visitor(name, person.role == "operate", taps=person.role != "view")

    # What is told.

    def _tell(self, problems: dict[str, str]) -> None:
        """What is new of it, and what is over."""
        for name, reason in problems.items():
            if name not in self.problems:
                log.warning("this host cannot prove what it is", name=name, reason=reason)
                self._event("identity.missing", name, reason)
            elif _kind(reason) != _kind(self.problems[name]):
                log.warning("this host cannot prove what it is", name=name, reason=reason)
        held = self._source.held()
        for name in self.problems.keys() - problems.keys():
            if name not in held and self._source.wants(name):
                problems[name] = self.problems[name]  # asked for by now; it is no better yet
                continue
            reason = "it holds a certificate" if name in held else "it is not wanted here any more"
            log.info("this host can prove what it is", name=name, reason=reason)
            self._event("identity.held", name, reason)
        self.problems = problems

    def _event(self, kind: str, name: str, reason: str) -> None:
        service = name.removeprefix(SERVICE_REQUEST) if name.startswith(SERVICE_REQUEST) else OF_AGENT
        self._around.tell(kind, {"host": self._around.host, "service": service}, {"reason": reason})

    def as_state(self) -> dict[str, Any]:
        """What /state shows; empty without a bundle."""
        standing, now_s = self.standing, self._around.clock()
        bundle = standing.bundle
        if bundle is None:
            return {}
        return {
            "trust_domain": bundle.trust_domain,
            "bundle": bundle.sequence,
            "roots": len(bundle.roots),
            "federated": {domain: each.sequence for domain, each in sorted(standing.federated.items())},
            "revoked": len(standing.revocations),
            "held": [
                {
                    "name": name,
                    "path": held.path,
                    "ends": _text(held.ends_s),
                    "ends_s": round(held.ends_s - now_s),
                    "renewed_from": _text(held.renew_s),
                    "root": held.root,
                }
                for name, held in self._source.held().items()
            ],
            "problems": [{"name": name, "reason": reason} for name, reason in sorted(self.problems.items())],
        }

    def gauges(self) -> dict[str, float]:
        """For metrics; nothing while no bundle stands."""
        if self.standing.bundle is None:
            return {}
        now_s, held = self._around.clock(), self._source.held()
        ends = [each.ends_s - now_s for each in held.values()]
        return {
            "shoal_identity_held": len(held),
            "shoal_identity_missing": len(self.problems),
            "shoal_identity_first_end_seconds": min(ends, default=0.0),
            "shoal_identity_bundle_sequence": self.standing.bundle.sequence,
            "shoal_identity_revoked": len(self.standing.revocations),
        }


def _kind(reason: str) -> str:
    """What of a reason does not change by the minute."""
    return reason.partition(":")[0].partition(" in ")[0]


def _text(unix_s: float) -> str:
    return datetime.fromtimestamp(int(unix_s), UTC).isoformat().replace("+00:00", "Z")
