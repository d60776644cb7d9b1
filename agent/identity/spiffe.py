# mypyc: interpreted, because a handshake asks it, and no request
"""Names that are proven: SPIFFE ids, read strictly (github.com/spiffe/spiffe, standards/SPIFFE-ID.md).

    spiffe://<trust-domain>/svc/<service>     a service of the mesh
    spiffe://<trust-domain>/agent/<host>      a host's agent
    spiffe://<trust-domain>/person/<name>     somebody who operates or looks
    spiffe://<trust-domain>                   who signs for them

Laws
- One name has one spelling: what would have to be normalised first is refused, and `str(parse_id(text)) == text`.
- A path of another domain's may be anything that the standard allows. It is no service and no agent here.
- A person is no part of the mesh: neither a service nor an agent, whoever signed it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from policies.language.names import parse_service
from policies.language.trust import SCHEME, check_trust_domain

MAX_ID_BYTES: Final = 2048
MAX_HOST: Final = 64
"""Letters of a host's name: it is a certificate's common name (RFC 5280, ub-common-name), and etcd's user."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")
_SERVICE: Final = "/svc/"
_AGENT: Final = "/agent/"
_PERSON: Final = "/person/"
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,55}[a-z0-9])?\Z")
PERSON_USER: Final = "person:"
"""Before a person's name in a certificate's common name, which is who etcd takes him for: no host is called so, and
`root` is nobody's."""


class SpiffeId(NamedTuple):
    """One name. `path` is empty, or begins with a slash."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"

    @property
    def service(self) -> str:
        """The service that it is of; empty: it is none."""
        return self.path[len(_SERVICE) :] if self.path.startswith(_SERVICE) else ""

    @property
    def host(self) -> str:
        """The host whose agent it is; empty: it is none."""
        return self.path[len(_AGENT) :] if self.path.startswith(_AGENT) else ""

    @property
    def person(self) -> str:
        """The person that it is of; empty: it is none."""
        return self.path[len(_PERSON) :] if self.path.startswith(_PERSON) else ""

    @property
    def member(self) -> bool:
        """Whether it is a part of its mesh: a service, or an agent."""
        return bool(self.service or self.host)


def service_id(trust_domain: str, service: str) -> SpiffeId:
    """Of a service. Raises ValueError for names that are none."""
    return SpiffeId(check_trust_domain(trust_domain), _SERVICE + parse_service(service))


def agent_id(trust_domain: str, host: str) -> SpiffeId:
    """Of a host's agent. Raises ValueError for names that are none."""
    if not _HOST.match(host):
        raise ValueError(
            f"{host[:80]!r} cannot be proven: a host's name has 1 to {MAX_HOST} of A-Z, a-z, 0-9 and '.-_', "
            "the first and the last a letter or digit"
        )
    return SpiffeId(check_trust_domain(trust_domain), _AGENT + host)


def person_id(trust_domain: str, name: str) -> SpiffeId:
    """Of a person. Raises ValueError for names that are none."""
    if not _NAME.match(name):
        raise ValueError(
            f"{name[:80]!r} is no person's name: 1 to 57 of a-z, 0-9 and '.-_', "
            "the first and the last a letter or digit"
        )
    return SpiffeId(check_trust_domain(trust_domain), _PERSON + name)


def parse_id(text: str) -> SpiffeId:
    """A SPIFFE id. Raises ValueError that says what is wrong with it."""
    shown = repr(text[:120])
    if len(text.encode(errors="replace")) > MAX_ID_BYTES:
        raise ValueError(f"{shown}… is longer than {MAX_ID_BYTES} bytes")
    if not text.startswith(SCHEME):
        raise ValueError(f"{shown} is no SPIFFE id: it begins with {SCHEME}")
    domain, slash, path = text[len(SCHEME) :].partition("/")
    check_trust_domain(domain)
    if not slash:
        return SpiffeId(domain, "")
    for segment in path.split("/"):
        if not _SEGMENT.match(segment) or segment in (".", ".."):
            raise ValueError(f"{shown}: {segment[:60]!r} is no part of a path; 1 or more of A-Z, a-z, 0-9 and '.-_'")
    return _canonical(SpiffeId(domain, "/" + path))


def _canonical(found: SpiffeId) -> SpiffeId:
    """What claims to be a service's, an agent's or a person's has to be one."""
    if found.path.startswith(_SERVICE) and service_id(found.trust_domain, found.service) != found:
        raise ValueError(f"{str(found)[:120]!r}: a service is spelled {parse_service(found.service)!r}")
    if found.path.startswith(_AGENT):
        agent_id(found.trust_domain, found.host)
    if found.path.startswith(_PERSON):
        person_id(found.trust_domain, found.person)
    return found
