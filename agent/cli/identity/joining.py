"""How a new host is let in: an issuer is asked, once it is known to be one; and what it answers is looked at.

Laws
- The token's secret leaves this host for whom the token names, and nobody else: the chain that is shown leads to the
  token's root, and is of the agent of a host that the token has as an issuer. That is judged before a byte is sent.
- What comes is for our key and our name, and leads to the token's root.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from cryptography import x509

from agent.cli.failure import Exit, Failure
from agent.identity.bundles import Bundle, parse_bundle
from agent.identity.certificates import key_digest
from agent.identity.revocations import Revocations
from agent.identity.spiffe import SpiffeId, agent_id
from agent.identity.tokens import JOIN, Joined, Joining, Place, Token, anchor, anchor_of
from agent.identity.verdict import Refused
from agent.identity.verification import verify
from agent.questions import HOST, SIGN, Sign, SignAnswer
from agent.tls.greeting import ACCEPTED, GREETING, MAX_LINE, REFUSED
from agent.tls.words import REFUSED as BY_ALERT
from agent.tls.words import words

SNI: Final = "join.shoal"
"""Under which an agent is called by who has no certificate to show."""
PATIENCE_S: Final = 10.0
"""For one issuer."""
MAX_ANSWER_BYTES: Final = 256 * 1024
Chain = tuple[x509.Certificate, ...]
Shown = Callable[[ssl.SSLObject], list[bytes]]


class Away(Exception):
    """An issuer that did not answer, or cannot now; another may."""


class Unbelieved(Away):
    """An issuer that answers, and does not believe the certificate that is shown; one whose clock is another may."""


class Lost(Exception):
    """An issuer that was asked, and whose answer did not come: the token may be redeemed."""


class Member(NamedTuple):
    """What a host or a person is that is let in."""

    chain: Chain
    bundle: Bundle
    document: str
    """The bundle, as it came."""


def join_at(place: Place, token: Token, csr: str, key: str, shown: Shown, now_s: float) -> Member:
    """Asks one issuer; `key`: digest of the key of the signing request; `shown`: which chain a connection has. Raises
    Away and Lost, and Failure for what no other issuer would answer otherwise."""
    body = msgspec.msgpack.encode(Joining(token.secret, csr))
    bundles = {token.trust_domain: anchor(token, now_s)}
    with _connected(place) as plain, _secured(plain, place, SNI, None) as tls:
        _judge(shown(tls), place, bundles, now_s)  # type: ignore[arg-type]
        status, answer = _asked(tls, place, JOIN, body)
    if status == http.HTTPStatus.OK:
        return _member(answer, token, key, now_s)
    words = _words(answer)
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status == http.HTTPStatus.NOT_FOUND:
        raise Away(f"{place.host} answers {status}: {words}")
    raise Failure(f"{place.host} refuses: {words}; {token.again} makes another token")


def renew_at(place: Place, who: SpiffeId, held: Path, known: str, csr: str, shown: Shown, now_s: float) -> Member:
    """Asks one issuer for the next certificate of a person, who shows the one that he has; `held`: its key and chain
    (PEM); `known`: the bundle's document that he believes. What the mesh believes by now comes with the answer: a root
    that is replaced leaves nobody behind who renews in between. The issuer says first whether it believes him
    (`agent.tls.greeting`). Raises Away, Unbelieved where it says that it does not, and Failure for what no other issuer
    would answer otherwise."""
    bundle = parse_bundle(who.trust_domain, known.encode())
    bundles = {bundle.trust_domain: bundle}
    body = msgspec.msgpack.encode(Sign("person", csr))
    try:
        with _connected(place) as plain, _secured(plain, place, HOST, held) as tls:
            _judge(shown(tls), place, bundles, now_s)  # type: ignore[arg-type]
            _hear_greeting(tls, place)
            status, answer = _asked(tls, place, SIGN, body)
    except Lost as lost:
        raise Away(str(lost)) from None
    if status != http.HTTPStatus.OK:
        raise Away(f"{place.host} answers {status}: {_words(answer)}")
    try:
        told = msgspec.msgpack.decode(answer, type=SignAnswer)
        if told.refused:
            raise Failure(f"{place.host} refuses: {told.refused}")
        chain = tuple(x509.load_pem_x509_certificates(told.chain.encode()))
        newer = parse_bundle(who.trust_domain, told.bundle.encode()) if told.bundle else bundle
    except (msgspec.MsgspecError, ValueError) as error:
        raise Failure(f"what the issuer answered makes no sense: {str(error)[:200]}") from None
    if newer.sequence > bundle.sequence:
        bundle, known = newer, told.bundle
    key = key_digest(x509.load_pem_x509_csr(csr.encode()).public_key())
    _check(chain, {bundle.trust_domain: bundle}, who, key, now_s)
    return Member(chain, bundle, known)


def _connected(place: Place) -> socket.socket:
    try:
        return socket.create_connection((place.address, place.port), PATIENCE_S)
    except OSError as error:
        raise Away(f"{place.host} at {place.address}:{place.port} is not reached: {error.strerror or error}") from None


def _secured(plain: socket.socket, place: Place, sni: str, held: Path | None) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a SPIFFE id is no host name, and no authority of the system's is asked:
    context.verify_mode = ssl.CERT_NONE  # `_judge` says who it is
    context.set_alpn_protocols(["http/1.1"] if held is None else [GREETING, "http/1.1"])
    try:
        if held is not None:
            context.load_cert_chain(held)
        return context.wrap_socket(plain, server_hostname=sni)
    except OSError as error:
        raise Away(
            f"{place.host} at {place.address}:{place.port} speaks no TLS 1.3: {error.strerror or error}"
        ) from None


def _judge(chain: list[bytes], place: Place, bundles: dict[str, Bundle], now_s: float) -> None:
    """Raises Away for whoever is not the one that is meant."""
    (trust_domain,) = bundles
    expected = agent_id(trust_domain, place.host)
    found = verify(chain, bundles, Revocations(), now_s, expected)
    if isinstance(found, Refused):
        raise Away(f"who answers at {place.address}:{place.port} is not believed, and was told nothing: {found.reason}")


def _hear_greeting(tls: ssl.SSLSocket, place: Place) -> None:
    """Whether we are believed. Raises Unbelieved and Lost."""
    if tls.selected_alpn_protocol() != GREETING:
        return
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 2 * MAX_LINE:
            data = tls.recv(1)
            if not data:
                break
            line += data
    except OSError as error:
        said = words(error)
        if said.startswith(BY_ALERT):
            raise Unbelieved(f"{place.host}: {said}") from None
        raise Lost(f"{place.host} did not say whether it believes us: {said}") from None
    if line.startswith(REFUSED):
        raise Unbelieved(f"{place.host} says: {line[len(REFUSED) :].decode('utf-8', 'replace').strip()}")
    if line != ACCEPTED:
        raise Lost(f"{place.host} did not say whether it believes us")


def _asked(tls: ssl.SSLSocket, place: Place, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(place.address, place.port)
    connection.sock = tls
    try:
        connection.request("POST", path, body, {"host": HOST, "content-type": "application/msgpack"})
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Lost(f"{place.host} was asked, and its answer did not come: {error or type(error).__name__}") from None


def _member(answer: bytes, token: Token, key: str, now_s: float) -> Member:
    try:
        told = msgspec.msgpack.decode(answer, type=Joined)
        chain = tuple(x509.load_pem_x509_certificates(told.chain.encode()))
        bundle = parse_bundle(token.trust_domain, told.bundle.encode())
    except (msgspec.MsgspecError, ValueError) as error:
        raise Failure(f"what the issuer answered makes no sense: {str(error)[:200]}") from None
    if (token.root_name, token.root_key) not in map(anchor_of, bundle.roots):
        raise Failure(f"the issuer's bundle is without the root that the token names; {token.again} again")
    _check(chain, {token.trust_domain: bundle}, token.who, key, now_s)
    return Member(chain, bundle, told.bundle)


def _check(chain: Chain, bundles: dict[str, Bundle], who: SpiffeId, key: str, now_s: float) -> None:
    """Raises Failure."""
    from agent.cli.identity.issuers import to_der

    found = verify(to_der(chain), bundles, Revocations(), now_s, who)
    if isinstance(found, Refused):
        raise Failure(f"the certificate that came is not good: {found.reason}")
    if key_digest(chain[0].public_key()) != key:
        raise Failure("the certificate that came is for another key than ours")


def _words(answer: bytes) -> str:
    text = answer[:1000].decode("utf-8", "replace").strip()
    try:
        said = json.loads(text)
        return str(said["reason"])
    except (ValueError, KeyError, TypeError):
        return text or "without a word"


def read(text: str, now_s: float) -> Token:
    """A token that may be good still. Raises Failure."""
    from datetime import UTC, datetime

    from agent.identity.tokens import read_token

    try:
        token = read_token(text)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    if now_s >= token.until:
        ended = datetime.fromtimestamp(token.until, UTC).isoformat()
        raise Failure(f"this token has ended at {ended}; {token.again} makes another")
    return token
