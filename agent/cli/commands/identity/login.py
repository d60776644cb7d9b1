"""`shoal login`: a person's certificate of the mesh, for a working day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from agent.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from agent.cli.options import Options
    from agent.cli.people.login import Login
    from agent.identity.tokens import Place

T = TypeVar("T")


def login(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="As `shoal person add` has printed it; empty: renew the login.")] = "",
) -> None:
    """Log in to a mesh, for 12 hours: a certificate in your name, whose key is made here and stays here.

    Without a token a login that has not ended is renewed. `shoal` shows it to etcd, where that asks for certificates.

    Example:  shoal login shoal1.…
    """
    options: Options = context.obj
    made = _first(token) if token else _renewed(options.mesh)
    end = datetime.fromtimestamp(made.until, UTC).isoformat().replace("+00:00", "Z")
    if options.printer.json:
        options.printer.value({"person": made.person, "trust_domain": made.trust_domain, "until": end})
        return
    options.printer.text(f"{made.person} is logged in to {made.trust_domain}, until {end}; `shoal login` renews it")


def logout(context: typer.Context) -> None:
    """Delete the login of this machine. What was copied from it is good until it ends: `shoal ca revoke person`."""
    from agent.cli.people.login import forget

    options: Options = context.obj
    there = forget(options.mesh)
    if options.printer.json:
        options.printer.value({"deleted": there})
    else:
        options.printer.text("the login is deleted" if there else f"nobody is logged in to {options.mesh} here")


def _first(text: str) -> Login:
    """With a token."""
    from agent.cli.identity.joining import Lost, join_at, read
    from agent.cli.people.login import Issuer, Login
    from agent.identity.certificates import key_digest, make_request
    from agent.proxy.engine.handshake import chain_of

    token = read(text, time.time())
    if not token.person:
        raise Failure(f"this token lets the host {token.host} in, and no person: `shoal join` there", Exit.USAGE)
    key = _key()
    csr, digest = make_request(key).decode(), key_digest(key.public_key())
    try:
        member = _of_any(token.issuers, lambda place: join_at(place, token, csr, digest, chain_of, time.time()))
    except Lost as lost:
        raise Failure(f"{lost}. {token.again} makes another token") from None
    issuers = [Issuer(place.host, place.address, place.port) for place in token.issuers]
    login = Login(token.person, token.mesh, token.trust_domain, 0.0, issuers, member.document)
    return _kept(login, key, member.chain)


def _renewed(mesh: str) -> Login:
    """By the login that stands."""
    import msgspec

    from agent.cli.identity.joining import renew_at
    from agent.cli.people.login import HELD, folder, load
    from agent.identity.certificates import make_request
    from agent.identity.spiffe import person_id
    from agent.identity.tokens import Place
    from agent.proxy.engine.handshake import chain_of

    login = load(mesh)
    if login is None:
        raise Failure(f"nobody is logged in to the mesh {mesh!r} here; an operator's `shoal person add NAME` begins it")
    if login.until <= time.time():
        person = login.person
        raise Failure(f"the login of {person} has ended; `shoal person add {person}` makes a token for another")
    who, held, key = person_id(login.trust_domain, login.person), folder(mesh) / HELD, _key()
    csr = make_request(key).decode()
    places = [Place(each.host, each.address, each.port) for each in login.issuers]
    else_ = f"if the mesh's root was replaced since the last login, `shoal person add {login.person}` makes a token"
    member = _of_any(places, lambda place: renew_at(place, who, held, login.bundle, csr, chain_of, time.time()), else_)
    return _kept(msgspec.structs.replace(login, bundle=member.document), key, member.chain)


def _key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _of_any(places: Iterable[Place], ask: Callable[[Place], T], else_: str = "") -> T:
    """What the first issuer answers that can; `else_`: what to do where none does. Raises Failure: that one does not
    believe us says more than that others did not answer."""
    from agent.cli.identity.joining import Away, Unbelieved

    said: list[str] = []
    refused = ""
    for place in places:
        try:
            return ask(place)
        except Unbelieved as unbelieved:
            refused = refused or str(unbelieved)
        except Away as away:
            said.append(str(away))
    if refused:
        raise Failure(f"the login is not renewed: {refused}; an operator's `shoal person add` begins another")
    raise Failure("; ".join(filter(None, (f"no issuer answers: {'; '.join(said)}", else_))), Exit.UNREACHABLE)


def _kept(login: Login, key: ec.EllipticCurvePrivateKey, chain: tuple[x509.Certificate, ...]) -> Login:
    import msgspec
    from cryptography.hazmat.primitives import serialization

    from agent.cli.people.login import keep
    from agent.identity.certificates import to_pem

    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    kept = msgspec.structs.replace(login, until=chain[0].not_valid_after_utc.timestamp())
    keep(kept, pem + to_pem(list(chain)))
    return kept
