"""What `shoal ca init` does: a root, its bundle, who issues, and their intermediates. Broken off anywhere, it goes on.

Laws
- There is one root: the bundle is put where none stands, in one transaction. Who comes second keeps nothing.
- Nothing is granted by itself. Only hosts that are named as issuers belong to the mesh by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.cli.failure import Exit, Failure
from agent.cli.identity import issuers, root_key
from agent.cli.identity.domain import Change, Domain, now_s, settle, take, wait_for
from agent.cli.identity.issuers import Asking
from agent.identity.bundles import Bundle, bundle_document
from agent.identity.certificates import ROOT_S, Issuer, make_root
from registry.store import Compare, Put

if TYPE_CHECKING:
    from cryptography import x509

    from registry.store import Store

TLS = "tls"
PERMISSIVE = b'{"mtls": "permissive"}'


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    mesh: str
    trust_domain: str = ""
    """Empty: `<mesh>.shoal`."""
    key: Path
    passphrase: bytes = b""
    external: tuple[x509.Certificate, ...] = ()
    """Roots of another CA, which signs the intermediates; empty: our own."""
    issuers: tuple[str, ...] = ()
    timeout_s: float = 30.0
    """How long to wait for issuers that have not asked yet."""


class Founded(msgspec.Struct, kw_only=True):
    """What came of it."""

    domain: Domain
    bundle: Bundle
    made_key: bool = False
    permissive: bool = False
    """Whether the policy `tls` was put."""
    waiting: list[str] = []
    """Issuers that have not asked in time, or whose intermediate is for somebody else to sign."""
    csrs: list[Asking] = []
    """What another CA is to sign."""


async def found(store: Store, wanted: Wanted) -> Founded:
    """Makes the CA of a mesh, or goes on with one that was begun. Raises Failure."""
    before = await take(store, wanted.mesh)
    before.unchanged(before.keys.identity("bundle"))
    if before.bundle is None:
        made, signs = await _begun(store, wanted)
    else:
        made, signs = False, _resumed(before.bundle, wanted)
    await settle(store, wanted.mesh, lambda domain: (issuers.named(domain, wanted.issuers), None))
    permissive = await _permissive(store, before)
    domain, waiting = await sign(store, wanted.mesh, signs, wanted.timeout_s)
    ready, _ = issuers.asking(domain, sorted(domain.issuers))
    csrs = [each for each in ready if not issuers.is_answered(domain, each)] if signs is None else []
    return Founded(
        domain=domain,
        bundle=domain.required(),
        made_key=made,
        permissive=permissive,
        waiting=waiting,
        csrs=csrs,
    )


async def sign(
    store: Store, mesh: str, root: Issuer | None, timeout_s: float, *, anew: bool = False
) -> tuple[Domain, list[str]]:
    """Waits until each issuer that lives has asked, and signs what they ask for; None: somebody else signs. How it
    stands then, and which issuers have not asked. `anew`: also those that have one of the key they ask with."""

    def missing(domain: Domain) -> list[str]:
        _, waiting = issuers.asking(domain, sorted(domain.issuers))
        lacking = [host for host in waiting if anew or issuers.intermediate(domain, host) is None]
        return [host for host in lacking if host in domain.agents]

    def signed(domain: Domain) -> tuple[Change, None]:
        ready, _ = issuers.asking(domain, sorted(domain.issuers))
        unanswered = [each for each in ready if anew or not issuers.is_answered(domain, each)]
        return issuers.signed(domain, root, unanswered, now_s()) if root is not None else Change([], []), None

    await wait_for(store, mesh, timeout_s, missing)
    await settle(store, mesh, signed)
    domain = await take(store, mesh)
    _, waiting = issuers.asking(domain, sorted(domain.issuers))
    return domain, [host for host in waiting if anew or issuers.intermediate(domain, host) is None]


async def _begun(store: Store, wanted: Wanted) -> tuple[bool, Issuer | None]:
    """A bundle of sequence 1 where none stands; whether a key was made for it, and who signs."""
    trust_domain = wanted.trust_domain or f"{wanted.mesh}.shoal"
    signs: Issuer | None = None
    made, roots = False, wanted.external
    if not roots:
        key, made = root_key.made(wanted.key, wanted.passphrase)
        signs = Issuer(make_root(key, trust_domain, root_key.terms(now_s(), ROOT_S)), key)
        roots = (signs.certificate,)
    document = bundle_document(Bundle(trust_domain, roots, 1))

    def put(domain: Domain) -> tuple[Change, bool]:
        bundle = domain.keys.identity("bundle")
        if domain.bundle is not None:
            return Change([], []), False
        named = issuers.named(domain, wanted.issuers)
        return Change([domain.unchanged(bundle), *named.compares], [Put(bundle, document), *named.operations]), True

    try:
        ours, _, _ = await settle(store, wanted.mesh, put)
    except Failure:
        _forget(wanted.key, made=made)
        raise
    if not ours:
        _forget(wanted.key, made=made)
        raise Failure("somebody else has made a CA for this mesh meanwhile; `shoal ca status` shows it")
    return made, signs


def _resumed(bundle: Bundle, wanted: Wanted) -> Issuer | None:
    """Who signs for a CA that stands. Raises Failure where it is not the one that is meant."""
    if wanted.trust_domain not in ("", bundle.trust_domain):
        raise Failure(
            f"this mesh has the trust domain {bundle.trust_domain}, which cannot be changed; "
            "certificates, and everybody who trusts them, have it in their names"
        )
    if wanted.external:
        if any(root not in bundle.roots for root in wanted.external):
            raise Failure("this mesh has a CA with other roots; `shoal ca rotate root` leads from one to another")
        return None
    if not wanted.key.exists():
        raise Failure(
            f"this mesh has a CA already ({bundle.trust_domain}, `shoal ca status`); to name further issuers, say with "
            f"--root-key where its root's key is (there is no {wanted.key})"
        )
    return root_key.signer(root_key.read(wanted.key, wanted.passphrase), bundle, wanted.key)


async def _permissive(store: Store, domain: Domain) -> bool:
    """That hops are TLS where both sides can, unless a policy for the whole mesh says something."""
    key = domain.keys.policy(TLS, "*")
    return (await store.transact([Compare(key, create_revision=0)], [Put(key, PERMISSIVE)])).succeeded


def _forget(path: Path, *, made: bool) -> None:
    """A key that was made for nothing, and that nobody has seen."""
    if made:
        path.unlink(missing_ok=True)


def check_trust_domain(text: str) -> None:
    """Raises Failure for what is none."""
    from policies.language import trust

    try:
        trust.check_trust_domain(text)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
