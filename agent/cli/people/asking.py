"""An agent that is asked over the network by a person's login, or by a token of a provider that it believes.

Laws
- The certificate or token is shown, and a question sent, only to an agent of the person's own trust domain: its chain
  leads to a root of the login's bundle, or of the one that goes with a token. Where the URL has a name, it is that
  agent's host that it names.
- No authority of the system's, and no proxy, is asked.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.cli.failure import Exit, Failure
from agent.cli.people.login import HELD, Login, folder, load
from agent.identity.bundles import Bundle, parse_bundle
from agent.identity.revocations import Revocations
from agent.identity.verdict import Refused
from agent.identity.verification import verify
from agent.tls.chain import chain_of
from agent.tls.words import words

TOKEN_FILE: Final = "SHOAL_TOKEN_FILE"  # noqa: S105 - the name of a file is none
"""The environment's word of a file that holds a token."""
BUNDLE_FILE: Final = "SHOAL_BUNDLE_FILE"
"""And of one with the trust bundle of the mesh (`shoal ca export`), for who has no login there."""


class Shown(NamedTuple):
    """What a person shows an agent, and whom he believes to be one."""

    context: ssl.SSLContext
    bundle: Bundle
    token: str
    """Of a provider; empty: the login's certificate is shown."""


def shown(mesh: str) -> Shown:
    """As of now. Raises Failure."""
    token = _token()
    bundle = _given_bundle() if token else None
    if bundle is None:
        bundle = _bundle_of(_login(mesh))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a SPIFFE id is no host name, and no authority of the system's is asked:
    context.verify_mode = ssl.CERT_NONE  # `judged` says who it is
    if not token:
        held = folder(mesh) / HELD
        try:
            context.load_cert_chain(held)
        except OSError as error:
            raise Failure(f"{held} cannot be used: {words(error)}; `shoal login` with a new token renews it") from None
    return Shown(context, bundle, token)


class PersonConnection(http.client.HTTPConnection):
    """HTTP over TLS 1.3, by the login of a mesh, or by a token. Raises Failure for all that fails before a
    question was answered."""

    def __init__(self, host: str, port: int, mesh: str, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._mesh = mesh
        self._called = ""
        self._token = ""

    def connect(self) -> None:
        """The base class's; who answers is known behind it."""
        context, bundle, self._token = shown(self._mesh)
        super().connect()
        try:
            tls = context.wrap_socket(self.sock)
        except OSError as error:
            raise Failure(f"{self._place} speaks no TLS 1.3 with us: {words(error)}", Exit.UNREACHABLE) from None
        self.sock = tls
        self._called = judged(chain_of(tls), bundle, self.host, self._place)

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, Any] = {}, *, encode_chunked: bool = False
    ) -> None:
        """The base class's, to the agent by the name that it has proven."""
        self.connect()
        try:
            shown = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            said = {**headers, **shown, "Host": self._called}
            super().request(method, url, body, said, encode_chunked=encode_chunked)
        except ConnectionError as error:  # what it has said before, `getresponse` tells
            raise BrokenPipeError(str(error)) from None

    def getresponse(self) -> http.client.HTTPResponse:
        """The base class's. With TLS 1.3 the refusal of a certificate comes only now."""
        try:
            return super().getresponse()
        except (ssl.SSLError, ConnectionError, http.client.BadStatusLine) as error:
            raise Failure(
                f"{self._place} ended the connection ({words(error) if isinstance(error, OSError) else error}): it "
                "does not take the certificate of this login; `shoal login` renews it",
                Exit.UNREACHABLE,
            ) from None

    @property
    def _place(self) -> str:
        return f"what answers at {self.host}:{self.port}"


def _login(mesh: str) -> Login:
    """Raises Failure."""
    login = load(mesh)
    if login is None:
        raise Failure(
            f"nobody is logged in to the mesh {mesh!r} here, and an agent asks for that over the network; "
            f"an operator's `shoal person add NAME` begins it, or a token in {TOKEN_FILE} and the mesh's bundle in "
            f"{BUNDLE_FILE}"
        )
    if login.until <= time.time():
        person = login.person
        raise Failure(f"the login of {person} has ended; `shoal person add {person}` makes a token for another")
    return login


def _token() -> str:
    """Of a provider; empty: the login counts. Raises Failure."""
    path = os.environ.get(TOKEN_FILE, "")
    if not path:
        return ""
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{TOKEN_FILE}: {path} cannot be read: {error}") from None
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise Failure(f"{TOKEN_FILE}: {path} holds no token, which is one word")
    return text


def _given_bundle() -> Bundle | None:
    """By which an agent is known to who shows a token; None: that of the login. Raises Failure."""
    path = os.environ.get(BUNDLE_FILE, "")
    if not path:
        return None
    try:
        return parse_bundle("", Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise Failure(f"{BUNDLE_FILE}: {path}: {error}; `shoal ca export` prints one") from None


def _bundle_of(login: Login) -> Bundle:
    return parse_bundle(login.trust_domain, login.bundle.encode())


def judged(chain: list[bytes], bundle: Bundle, called: str, place: str) -> str:
    """The host whose agent it is. Raises Failure for who is not the one that is meant."""
    found = verify(chain, {bundle.trust_domain: bundle}, Revocations(), time.time())
    if isinstance(found, Refused):
        raise Failure(f"{place} is not believed, and was asked nothing: {found.reason}", Exit.UNREACHABLE)
    host = found.id.host
    if not host:
        raise Failure(f"{place} is {found.id}, which is no agent, and was asked nothing", Exit.UNREACHABLE)
    if not _means(called.lower(), host.lower()):
        raise Failure(
            f"{place} is the agent of {host}, and was asked nothing; call it by that name, or by its address",
            Exit.UNREACHABLE,
        )
    return host


def _means(called: str, host: str) -> bool:
    """Whether a name in a URL may be a host's: its own, or with a domain behind it; an address may be anybody's."""
    if called in (host, "localhost") or called.startswith(f"{host}."):
        return True
    try:
        ipaddress.ip_address(called)
    except ValueError:
        return False
    return True
