"""Other trust domains' bundles: read from a file, and put if they follow what is believed.

Law: no root of theirs comes back that they have taken away: a bundle is replaced by one of a higher sequence only.
"""

from __future__ import annotations

from pathlib import Path

from agent.cli.failure import Exit, Failure
from agent.cli.identity.domain import Change, Domain
from agent.cli.identity.issuers import chain_in
from agent.identity.bundles import MAX_BUNDLE_BYTES, Bundle, bundle_document, parse_bundle
from registry.store import Put

PEM = b"-----BEGIN CERTIFICATE-----"


def read_bundle(trust_domain: str, path: Path) -> Bundle:
    """A SPIFFE bundle document, or roots as PEM, which have no sequence (0). Raises Failure."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", Exit.USAGE) from None
    try:
        if PEM in text:
            roots = tuple(dict.fromkeys(chain_in(text.decode("ascii", "replace"))))
            text = bundle_document(Bundle(trust_domain, roots))
        bundle = parse_bundle(trust_domain, text)
    except ValueError as error:
        raise Failure(f"{path}: {error}", Exit.USAGE) from None
    if not bundle.roots:
        raise Failure(f"{path}: no root in it (a key of use x509-svid, with x5c): nobody would be believed", Exit.USAGE)
    return bundle


def followed(domain: Domain, offered: Bundle) -> tuple[Change, Bundle]:
    """That another trust domain is believed by a bundle; roots without a sequence get the next. Raises Failure for our
    own trust domain, and for a bundle that goes back."""
    name = offered.trust_domain
    own = domain.required().trust_domain
    if name == own:
        raise Failure(f"{own} is this mesh's own; its roots are made with `shoal ca`, and not taken from a file")
    key = domain.keys.identity("trust", name)
    held = domain.trusted.get(name)
    if held is not None and set(held.roots) == set(offered.roots) and offered.sequence in (0, held.sequence):
        return Change([], []), held
    if held is not None and offered.sequence == 0:
        offered = offered._replace(sequence=held.sequence + 1)
    if held is not None and offered.sequence <= held.sequence:
        raise Failure(
            f"the bundle of {name} has sequence {offered.sequence}, and {held.sequence} is believed: it brings back "
            f"what they took away. Get their newest; or `shoal trust rm {name}` first, if theirs has begun anew"
        )
    return Change([domain.unchanged(key)], [Put(key, bundle_document(offered))]), offered
