"""Agents as far as identity goes, without agents: they live, ask, are signed for by an issuer among them, and hold."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from cryptography import x509

from agent.identity.bundles import parse_bundle
from agent.identity.certificates import SERIAL_BYTES, SVID_S, Issuer, Terms, make_request, serial_of, to_pem
from agent.identity.grants import Grants, parse_grant
from agent.identity.issuing import issue
from agent.identity.revocations import Revocations, parse_revocations
from agent.identity.spiffe import agent_id, service_id
from agent.identity.verdict import Refused
from registry.identity_records import Holds, IssuerRecord, Request, Signed
from registry.keys import AGENT_REQUEST, ISSUER_REQUEST, Key, Keys, Room
from registry.records import Agent, Instance, decode, encode
from registry.store import Store, prefix_end
from tests.support.identity import key

KEYS = Keys()


class Hosts:
    """All hosts of a mesh."""

    def __init__(self, store: Store, keys: Keys = KEYS) -> None:
        self.store = store
        self.keys = keys
        self.leases: dict[str, int] = {}

    async def live(self, host: str, port: int = 15006, services: tuple[str, ...] = ()) -> None:
        """Its agent registers itself, and instances."""
        lease = self.leases[host] = await self.store.grant(600)
        agent = encode(Agent(address="127.0.0.1", inbound_port=port, boot=host))
        await self.store.put(self.keys.agent(host), agent, lease=lease)
        for service in services:
            instance = encode(Instance(address="127.0.0.1", port=8080, agent=host))
            await self.store.put(self.keys.instance(service, f"{host}-8080"), instance, lease=lease)

    async def ask(self, host: str, name: str = ISSUER_REQUEST, whose: str = "") -> int:
        """A request for a certificate of the key that has a name; the revision."""
        csr = make_request(key(whose or f"{host} {name}")).decode()
        return await self.store.put(
            self.keys.request(host, name), encode(Request(csr=csr, at=datetime.now(UTC).replace(microsecond=0)))
        )

    async def answer(self, issuer: str, now_s: float | None = None) -> None:
        """An issuer signs, or refuses, whatever stands but intermediates."""
        grants, revocations = await self._rules()
        bundle = await self.store.get(self.keys.identity("bundle"))
        record = await self.store.get(self.keys.identity("issuers", issuer))
        assert bundle is not None
        assert record is not None
        above = x509.load_pem_x509_certificates(decode(IssuerRecord, record.value).chain.encode())
        signer = Issuer(above[0], key(f"{issuer} {ISSUER_REQUEST}"))
        domain = parse_bundle("", bundle.value).trust_domain
        for item in await self._in(Room.REQUESTS):
            at = self.keys.parse(item.key)
            assert isinstance(at, Key)
            if at.second == ISSUER_REQUEST:
                continue
            now = datetime.now(UTC).timestamp() if now_s is None else now_s
            identity = (
                agent_id(domain, at.first)
                if at.second == AGENT_REQUEST
                else service_id(domain, at.second.removeprefix("svc/"))
            )
            terms = Terms(serial_of(os.urandom(SERIAL_BYTES)), now, SVID_S)
            csr = decode(Request, item.value).csr.encode()
            made = issue(signer, identity, at.first, csr, grants, revocations, terms)
            told = {"request": item.mod_revision, "issuer": issuer, "at": datetime.fromtimestamp(int(now), UTC)}
            signed = (
                Signed(refused=made.reason, **told)
                if isinstance(made, Refused)
                else Signed(chain=to_pem([made.certificate, *above]).decode(), **told)
            )
            await self.store.put(self.keys.signed(at.first, at.second), encode(signed))

    async def hold(self, host: str, sequence: int | None = None) -> None:
        """Its agent takes what was signed for it, and says what it holds."""
        stands = await self.store.get(self.keys.identity("bundle"))
        assert stands is not None
        bundle = parse_bundle("", stands.value)
        ends: dict[str, datetime] = {}
        roots: set[str] = set()
        for item in await self._in(Room.SIGNED):
            at = self.keys.parse(item.key)
            assert isinstance(at, Key)
            chain = decode(Signed, item.value).chain
            if at.first == host and chain:
                shown = x509.load_pem_x509_certificates(chain.encode())
                ends[at.second] = shown[0].not_valid_after_utc
                roots |= {_fingerprint(root) for root in bundle.roots if _signs(root, shown[-1])}
        holds = Holds(
            trust_domain=bundle.trust_domain,
            bundle=bundle.sequence if sequence is None else sequence,
            agent=ends.pop(AGENT_REQUEST, None),
            services={name.removeprefix("svc/"): end for name, end in ends.items()},
            roots=sorted(roots),
        )
        await self.store.put(self.keys.trust(host), encode(holds), lease=self.leases.get(host, 0))

    async def _rules(self) -> tuple[Grants, Revocations]:
        hosts: list[str] = []
        services = {}
        revocations = Revocations()
        for item in await self._in(Room.IDENTITY):
            at = self.keys.parse(item.key)
            assert isinstance(at, Key)
            if at.first == "hosts":
                hosts.append(at.second)
            elif at.first == "grants":
                services[at.second] = parse_grant(item.value)
            elif at.first == "revocations":
                revocations = parse_revocations(item.value)
        return Grants(hosts, services), revocations

    async def _in(self, room: Room):  # type: ignore[no-untyped-def]
        prefix = self.keys.room(room)
        return (await self.store.range(prefix, prefix_end(prefix))).items


def _fingerprint(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def _signs(root: x509.Certificate, below: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(root)
    except Exception:
        return False
    return True
