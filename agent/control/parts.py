"""What an agent is made of. Each part is handed those that were made before it, and nothing that comes later."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec
import trio

from agent.control.asking.answering import Answering
from agent.control.asking.fanout import Fanout
from agent.control.asking.tree import Tree
from agent.control.asking.watched import Watched
from agent.control.audit.answers import Answers
from agent.control.audit.audit import OWN_PATHS, Audit
from agent.control.audit.security import SecurityRecords
from agent.control.events.events import Events
from agent.control.events.hook_http import HookClient
from agent.control.figures.figures import Figures
from agent.control.figures.sampler import Sampler
from agent.control.host.here import Here
from agent.control.host.own_ports import is_here
from agent.control.host.sockets import Handover
from agent.control.identity.around import Around, Proof, Reply, Tell
from agent.control.identity.identity import AgentIdentity
from agent.control.instances.checks import Means
from agent.control.instances.client_certificates import ClientCertificates
from agent.control.instances.exposed import Exposed
from agent.control.instances.origins import OriginsHere
from agent.control.instances.registrar import Registrar
from agent.control.instances.registration import Identity
from agent.control.instances.tokens import Tokens
from agent.control.issuers.issuers import Issuers
from agent.control.mesh.documents.exports import taken_in
from agent.control.mesh.documents.sources import sources
from agent.control.mesh.reports import others_run
from agent.control.mesh.view import MeshView
from agent.control.outgoing.client import Client
from agent.control.output.output import Output
from agent.control.records.records import Records
from agent.control.scaling.scaler import Scaler
from agent.control.traffic.peers import Peers
from agent.control.traffic.traffic import Traffic
from agent.control.updates import Updates
from agent.control.workers.configuration import configuration
from agent.control.workers.fleet import Fleet
from agent.control.workers.previous import taken
from agent.events import Event, to_cloudevent
from agent.frames import IssuerKeys, Peer, Trust
from agent.hooks.receivers import Receivers
from agent.hooks.targets import Targets
from agent.ports import Ports
from agent.questions import ASK, JOIN, SIGN
from agent.settings.address import Address
from agent.settings.document import AuthnPart, Settings
from agent.settings.file import SettingsError
from agent.settings.oidc import sources as people_sources
from agent.settings.people import names
from agent.tls.web_certificate import WebCertificate

T = TypeVar("T")


class Parts:
    """Made, and not yet started."""

    def __init__(self, settings: Settings, handover: Handover) -> None:
        """Raises OSError and SettingsError for what cannot work at all."""
        self.settings = settings
        self.here = here = Here(settings, handover)
        self.records = Records(settings)
        self.mesh = mesh = MeshView(here)
        client = _hook_client(here)
        self.events = Events(
            mesh.table,
            here.store,
            here.keys,
            here.holder,
            client,
            host=settings.host,
            boot=here.boot,
            link=settings.hooks.link,
            record=partial(_record, self.records),
        )
        detector = self.events.detector
        proof = Proof()
        self.peers = peers = Peers(mesh.table, proof.way)
        self.answering = Answering(settings.host, mesh.table.agents)
        """Who answers what people ask of all agents: each part that knows something registers here."""
        self.fanout = Fanout(settings.host, mesh.table.agents, peers.ask, self.answering)
        self.watched = Watched()
        self.traffic = traffic = Traffic(
            settings,
            mesh.table,
            client.secret,
            client.receivers,
            detector.on_happened,
            peers,
            self.records,
            self.answering,
        )
        self.audit = audit = Audit(
            settings, mesh.table.agents, proof.frame, peers.ask, partial(self.records.offer, "audit")
        )
        of_people = people_sources(settings.people.oidc)
        self.issuers = Issuers(
            _issuer_client(settings.authn),
            settings.state_path / "issuers",
            lambda: [*sources(mesh.table), *of_people],
            publish=self._tell_keys,
            agents=lambda: max(1, len(mesh.table.agents)),
            tell=lambda name, reason: detector.tell(name, {"host": settings.host}, {"reason": reason}),
        )
        tokens = Tokens()
        local = here.rights.for_workers()
        self.client_certificates = certificates = ClientCertificates(Path(settings.origins.certificates_dir))
        self.web_certificate = _web_certificate(settings)
        self.fleet = Fleet(
            here.listeners.outbound,
            here.listeners.inbound,
            settings.worker_count,
            callers=here.listeners.callers.sockets,
            configuration=lambda: configuration(
                settings,
                tokens.callers(),
                local,
                certificates.found,
                records=self.records.wants("access"),
                spans=self.records.wants("traces"),
            ),
            feed=mesh.frames.feed,
            trust=proof.frame,
            keys=self.issuers.frames,
            on_happened=traffic.transitions.observe,
            on_compared=traffic.shadow.observe,
            on_store=traffic.requests.store,
            on_peer=self._on_peer,
            on_key_missed=self.issuers.miss,
            follows=traffic.follows,
            on_records=traffic.on_records,
            on_spans=partial(self.records.offer, "traces"),
            on_followed=traffic.on_followed,
            on_audited=audit.on_audited,
            inherited_counts=handover.counts,
            inherited=handover.workers,
            inherited_ledger=handover.retired,
        )
        self.registrar = Registrar(
            settings,
            here.address,
            here.keys,
            here.holder,
            mesh.table,
            Means(here.programs, mesh.own, here.rights, OriginsHere(mesh.table.in_force, certificates)),
            tokens,
            on_tokens=self.fleet.reconfigure,
            events=detector.of_instance,
        )
        self.output = Output(settings.host, self.answering, partial(_users, self.registrar))
        sampler = Sampler(self.fleet, places=partial(_places, self.registrar), scaled=self._scaled)
        sampler.take_over(taken(handover.figures))
        self.figures = Figures(sampler, Tree(self.fanout), self.answering, host=settings.host)
        self.scaler = Scaler(mesh.table, here.store, here.keys, here.holder, self.figures, detector.own)
        self.exposed = Exposed(self.registrar.local, Ports(settings.guard.ports))
        around = _around(here, mesh, proof, self.registrar, self.fleet, detector.tell, peers, audit)
        around = replace(around, workload_socket=settings.identity.socket_path, inherited=taken(handover.identity))
        self.identity = proof.identity = AgentIdentity(around)
        security = SecurityRecords(mesh.table, here.keys, audit.note)
        self.updates = Updates(
            here, mesh, self.events, self.registrar, self.fleet, self.identity, self.issuers, security
        )
        self.stopping = trio.Event()
        kept = taken(handover.counters)
        Answers(audit, self.answering)
        self.carried = dict(msgspec.msgpack.decode(kept, type=list[tuple[tuple[str, ...], float]])) if kept else {}
        """What control itself had counted before it was executed anew, by name and labels."""

    def _tell_keys(self, frame: IssuerKeys) -> None:
        self.fleet.publish([frame])

    def _scaled(self) -> list[str]:
        return self.scaler.patterns()

    def _on_peer(self, told: Peer, reply: Reply) -> None:
        if told.path in (SIGN, JOIN):
            self.identity.asked(told, reply)
        elif told.path in OWN_PATHS:
            self.audit.asked(told, reply)
        elif told.path.startswith(ASK):
            self.answering.asked(told, reply)
        else:
            reply(*self.traffic.on_peer(told))

    @property
    def others_run(self) -> Callable[[int], Awaitable[None]]:
        """Waits until every other live agent runs a revision."""
        return partial(others_run, self.here.store, self.here.keys, self.mesh.table, self.settings.host)

    def not_ready(self) -> str:
        """Why the agent is not ready; empty when it is."""
        if self.stopping.is_set():
            return "stopping"
        if not self.mesh.frames.known:
            return f"waiting for the first table from etcd ({self.updates.mirror.state.error or 'connecting'})"
        return "" if self.fleet.ready else "waiting for the workers"


def _around(
    here: Here, mesh: MeshView, proof: Proof, registrar: Registrar, fleet: Fleet, tell: Tell, peers: Peers, audit: Audit
) -> Around:
    def prove(trust: Trust) -> None:
        proof.trust = trust
        fleet.prove()

    return Around(
        store=here.store,
        keys=here.keys,
        host=here.settings.host,
        folder=here.settings.state_path / "identity",
        lease=lambda: here.holder.lease,
        services=lambda: (
            {service for service, _ in registrar.local}
            | taken_in(mesh.table.in_force, mesh.table.host, mesh.table.services)
        ),
        alive=lambda: mesh.table.agents,
        strict=partial(_is_strict, mesh),
        prove=prove,
        proves=fleet.has_taken,
        tell=tell,
        clock=time.time,
        chance=Random(),
        serials=secrets.token_bytes,
        disk=_in_a_thread,
        ask=peers.ask,
        note=audit.note,
    )


def _places(registrar: Registrar) -> dict[Identity, Address]:
    """Where instances of this host listen, as far as they are on it; named as the mesh names them."""
    places = {who: Address(local.record.address, local.record.port) for who, local in registrar.local.items()}
    return {registrar.published.named(who): place for who, place in places.items() if is_here(place.host)}


def _users(registrar: Registrar) -> dict[Identity, int]:
    """Whose instances of this host are."""
    return {identity: local.uid for identity, local in registrar.local.items()}


def _record(records: Records, event: Event) -> None:
    """As CloudEvents writes it."""
    if records.wants("events"):
        records.offer("events", msgspec.json.encode(to_cloudevent(event)))


def _is_strict(mesh: MeshView) -> bool:
    """Whether the whole mesh speaks TLS and nothing else."""
    policy = mesh.table.in_force.enforced.get("tls", {}).get("*")
    return policy is not None and msgspec.json.decode(policy.text).get("mtls") == "strict"


async def _in_a_thread(work: Callable[..., T], *about: object) -> T:
    return await trio.to_thread.run_sync(work, *about)


def _hook_client(here: Here) -> HookClient:
    hooks = here.settings.hooks
    programs = here.programs if hooks.exec else None
    return HookClient(hooks.allow, Path(hooks.secrets_dir), receivers=Receivers(hooks.secrets), programs=programs)


def _issuer_client(authn: AuthnPart) -> Client:
    """Raises SettingsError."""
    tls = ssl.create_default_context()
    if authn.ca_file:
        try:
            tls.load_verify_locations(authn.ca_file)
        except OSError as error:  # an SSLError is one, for what is no certificate
            raise SettingsError(f"authn.ca_file: {authn.ca_file}: {error.strerror or error}") from None
    return Client(Targets(authn.allow, "authn.allow"), tls)


def _web_certificate(settings: Settings) -> WebCertificate | None:
    """What browsers are shown, where that is another one than the agent's own."""
    people = settings.people
    if not people.certificate:
        return None
    key = Path(people.key) if people.key else None
    return WebCertificate(Path(people.certificate), key, [name.lower() for name in names(settings)])
