"""From one root to another, in three steps that overlap: all believe both, all hold what leads to the new one, the old
one goes. Where it stands is read from etcd, so that it goes on from wherever it was broken off; back is the same way.

Laws
- No root goes while an agent that lives does not believe the other one, or holds what leads to the one that goes.
- A host is asked again until it is done: an issuer may have signed with its intermediate of before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509

from agent.cli.failure import Failure
from agent.cli.identity import issuers
from agent.cli.identity.domain import Change, Domain, now_s, settle, take, wait_for
from agent.cli.identity.issuers import Asking, fingerprint, root_above
from agent.cli.identity.renewing import wish
from agent.identity.bundles import Bundle, bundle_document
from agent.identity.certificates import Issuer
from registry.store import Put

if TYPE_CHECKING:
    from registry.store import Store

AGAIN_S: Final = 20.0
"""After so long without being done a host is asked once more."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted."""

    mesh: str
    root: x509.Certificate
    """Which is to be the only one."""
    signer: Issuer | None
    """None: another CA signs for it."""
    timeout_s: float
    """For each step."""
    force: bool = False
    say: Callable[[str], None]
    """To a person, how far it is."""


async def turn(store: Store, wanted: Turn) -> int:
    """All of it, as far as is left; the revision of the last step. Raises Failure that says who is not done."""
    sequence = await _both(store, wanted)
    _, lagging = await wait_for(store, wanted.mesh, wanted.timeout_s, lambda domain: behind(domain, sequence))
    _require(wanted, lagging, "do not believe it yet")
    await _signed(store, wanted)
    left = await _renewed(store, wanted)
    _require(wanted, left, "do not hold what leads to it yet")
    return await _alone(store, wanted)


async def abort(store: Store, mesh: str) -> tuple[str, int]:
    """Takes back the root that was added last, if nobody uses it yet; its fingerprint, the revision. Raises Failure."""

    def decide(domain: Domain) -> tuple[Change, str]:
        bundle = domain.required()
        if len(bundle.roots) < 2:
            raise Failure("there is one root, and nothing to be taken back")
        last = bundle.roots[-1]
        using = [f"issuer {host}" for host in sorted(domain.issuers) if root_above(domain, host) == last]
        using += [host for host, holds in sorted(domain.holds.items()) if fingerprint(last) in holds.roots]
        if using:
            raise Failure(
                f"it is in use ({', '.join(using[:5])}): the way back is `shoal ca rotate root --root-key` with the "
                "key of the root that was there before"
            )
        return _bundled(domain, bundle.roots[:-1]), fingerprint(last)

    taken, _, revision = await settle(store, mesh, decide)
    return taken, revision


def behind(domain: Domain, sequence: int) -> list[str]:
    """Live agents that have not said that they believe a bundle of that sequence, or a later one. An agent that says
    nothing of certificates, and whose host nobody has added, is of a version that knows none, and not waited for."""
    waited = {host for host in domain.agents if host in domain.hosts or host in domain.holds}
    return sorted(host for host in waited if host not in domain.holds or domain.holds[host].bundle < sequence)


def elsewhere(domain: Domain, root: x509.Certificate) -> list[str]:
    """Hosts of the mesh that live and hold what leads to another root."""
    here = [fingerprint(root)]
    living = sorted(host for host in domain.holds if host in domain.agents and host in domain.hosts)
    return [host for host in living if domain.holds[host].roots not in ([], here)]


def unsigned(domain: Domain, root: x509.Certificate) -> list[str]:
    """Issuers whose intermediate leads to no root, or another one."""
    return [host for host in sorted(domain.issuers) if root_above(domain, host) != root]


async def _both(store: Store, wanted: Turn) -> int:
    """Step one: the bundle has the new root beside the old one. Its sequence."""

    def decide(domain: Domain) -> tuple[Change, int]:
        bundle = domain.required()
        if wanted.root in bundle.roots:
            return Change([], []), bundle.sequence
        if len(bundle.roots) > 1:
            raise Failure(
                "another root is on its way in already: go on with its key, or take it back with `shoal ca rotate root "
                "--abort`"
            )
        return _bundled(domain, (*bundle.roots, wanted.root)), bundle.sequence + 1

    sequence, _, _ = await settle(store, wanted.mesh, decide)
    wanted.say(f"1 of 3: bundle {sequence} has the new root; waiting for every agent that lives to believe it")
    return sequence


async def _signed(store: Store, wanted: Turn) -> None:
    """Step two, first half: intermediates of the new root. Raises Failure."""
    wanted.say("2 of 3: intermediates and certificates are renewed; what is held stays good meanwhile")

    def missing(domain: Domain) -> list[str]:
        lacking = unsigned(domain, wanted.root)
        ready, _ = issuers.asking(domain, lacking)
        return lacking if wanted.signer is None else sorted(set(lacking) - {each.host for each in ready})

    def sign(domain: Domain) -> tuple[Change, None]:
        ready: list[Asking] = issuers.asking(domain, unsigned(domain, wanted.root))[0]
        return issuers.signed(domain, wanted.signer, ready, now_s()) if wanted.signer else Change([], []), None

    domain = await take(store, wanted.mesh)
    if wanted.signer is None and missing(domain):
        wanted.say(
            "the other CA signs: `shoal ca rotate intermediate --external`, then `shoal ca import`, and this again"
        )
    await wait_for(store, wanted.mesh, wanted.timeout_s, missing)
    await settle(store, wanted.mesh, sign)
    left = unsigned(await take(store, wanted.mesh), wanted.root)
    _require(wanted, [f"issuer {host}" for host in left], "have no intermediate of it")


async def _renewed(store: Store, wanted: Turn) -> list[str]:
    """Step two, second half: who is not done in time."""
    left_s = wanted.timeout_s
    while True:
        remaining = elsewhere(await take(store, wanted.mesh), wanted.root)
        if remaining:
            await wish(store, wanted.mesh, remaining)
        share_s = min(AGAIN_S, left_s)
        _, remaining = await wait_for(store, wanted.mesh, share_s, lambda domain: elsewhere(domain, wanted.root))
        left_s -= share_s
        if not remaining or left_s <= 0:
            return remaining


async def _alone(store: Store, wanted: Turn) -> int:
    """Step three: the bundle has the new root only, if nothing has changed since that was found to be harmless."""

    def decide(domain: Domain) -> tuple[Change, None]:
        if domain.required().roots == (wanted.root,):
            return Change([], []), None
        if not wanted.force:
            late = behind(domain, domain.required().sequence) + elsewhere(domain, wanted.root)
            _require(wanted, late + unsigned(domain, wanted.root), "are not done")
        return _bundled(domain, (wanted.root,)), None

    _, domain, revision = await settle(store, wanted.mesh, decide)
    wanted.say(f"3 of 3: {fingerprint(wanted.root)} is the only root")
    return revision or domain.revision


def _bundled(domain: Domain, roots: tuple[x509.Certificate, ...]) -> Change:
    key, bundle = domain.keys.identity("bundle"), domain.required()
    document = bundle_document(Bundle(bundle.trust_domain, roots, bundle.sequence + 1, bundle.refresh_s))
    return Change([domain.unchanged(key)], [Put(key, document)])


def _require(wanted: Turn, late: list[str], what: str) -> None:
    """Raises Failure where somebody is late, unless he is to be cut off: then he is named."""
    if not late:
        return
    named = ", ".join(late[:10]) + (f" and {len(late) - 10} more" if len(late) > 10 else "")
    if wanted.force:
        wanted.say(f"warning: {named} {what}, and will be cut off")
        return
    raise Failure(
        f"{named} {what}. The same command goes on from here; --force goes on without them, and they are cut off; "
        "`shoal ca status` says more"
    )
