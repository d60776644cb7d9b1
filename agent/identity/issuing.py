"""What an issuer signs: a request is judged here, and whoever signs adds nothing to it.

Laws
- Whose request it is says the place where it stands, which etcd's rights protect; nothing in it is read but its key.
- No grant, no certificate. What is revoked is not made again: neither its key, nor with an earlier beginning.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509

from agent.identity.certificates import Issuer, Terms, key_digest, make_svid, read_request
from agent.identity.grants import Grants
from agent.identity.revocations import Revocations, Shown
from agent.identity.spiffe import PERSON_USER, SpiffeId
from agent.identity.verdict import Refused


class Issued(NamedTuple):
    """A certificate, and the grant that it was signed under: the pattern, or empty for an agent's own."""

    certificate: x509.Certificate
    pattern: str


def issue(
    issuer: Issuer,
    identity: SpiffeId,
    host: str,
    request_pem: bytes,
    grants: Grants,
    revocations: Revocations,
    terms: Terms,
) -> Issued | Refused:
    """The certificate that a host asked for, or why it gets none."""
    pattern = ""
    if identity.host:
        if identity.host != host or not grants.may_have_agent(host):
            return Refused(f"{host} may not be {identity}: {_why_not(host, grants, revocations)}")
    else:
        pattern = grants.pattern_for(host, identity.service) if identity.service else ""
        if not pattern:
            why = _why_not(host, grants, revocations, "no grant names it")
            return Refused(f"{host} may not hold {identity}: {why}")
    made = _made(issuer, identity, host, request_pem, revocations, terms)
    return made if isinstance(made, Refused) else Issued(made, pattern)


def issue_to_person(
    issuer: Issuer, identity: SpiffeId, request_pem: bytes, revocations: Revocations, terms: Terms
) -> Issued | Refused:
    """The certificate of a person who may have one. Whether he may is asked elsewhere."""
    made = _made(issuer, identity, f"{PERSON_USER}{identity.person}", request_pem, revocations, terms)
    return made if isinstance(made, Refused) else Issued(made, "")


def _why_not(
    host: str, grants: Grants, revocations: Revocations, otherwise: str = "no operator has added that host"
) -> str:
    """Of a host that was put out that it was, and not what would let it in."""
    entry = None if grants.may_have_agent(host) else revocations.of("host", host)
    return str(entry) if entry is not None else otherwise


def _made(
    issuer: Issuer, identity: SpiffeId, common: str, request_pem: bytes, revocations: Revocations, terms: Terms
) -> x509.Certificate | Refused:
    try:
        key = read_request(request_pem)
    except ValueError as error:
        return Refused(str(error))
    floor_s = revocations.floor_s(common, identity.service, identity.person)
    revoked = revocations.find(Shown(terms.serial, key_digest(key), "", "", terms.now_s))
    if revoked:
        return Refused(f"{revoked}; ask with a new key")
    terms = terms._replace(not_before_s=max(floor_s, terms.not_before_s))
    try:
        return make_svid(issuer, key, identity, common, terms)
    except ValueError as error:
        return Refused(str(error))
