# mypyc: interpreted, because it wraps a library, and reads keys once
"""Public keys of providers (RFC 7517), and which algorithm each is for. The cryptography is joserfc's.

Laws
- A key is for algorithms of its own type and curve only. There are no secrets among them: a symmetric key verifies
  nothing, and a private one is refused with the document.
- What a token says of keys (`jwk`, `jku`, `x5c`, `x5u`) is not read: only `kid` is, and that only to choose.

The library is loaded with the first document of this kind.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from policies.language.plain import Flaw, below

_KINDS: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
_KEPT: Final = ("kty", "crv", "x", "y", "n", "e", "kid", "alg", "use")
_PRIVATE: Final = ("d", "p", "q", "k")
_LEAST_BITS: Final = 2048
_MOST_TEXT: Final = 1400
"""Characters: an RSA key of 8,192 bits."""


class Key:
    """One, ready to be asked."""

    __slots__ = ("_key", "algorithms", "kid")

    def __init__(self, jwk: Mapping[str, Any], algorithms: Sequence[str]) -> None:
        """Raises Flaw, which `check_keys` would have."""
        self.kid = jwk.get("kid", "")
        self.algorithms = frozenset(algorithms) & _algorithms_for(jwk)
        self._key = _import(jwk, "$")

    def refuses(self, token: str, algorithm: str) -> str:
        """Why it has not signed a token by an algorithm, which is one of its own; empty: it has."""
        from joserfc import jws
        from joserfc.errors import JoseError

        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of `EdDSA`, which RFC 9864 calls Ed25519, and issuers do not yet
                jws.deserialize_compact(token, self._key, registry=registry)
        except JoseError:
            return "its signature is not its issuer's"
        except Exception as error:  # whatever a library stumbles over in what strangers write: who operates is told
            return f"it cannot be read: {type(error).__name__}"
        return ""


def check_keys(keys: Sequence[Mapping[str, Any]], algorithms: Sequence[str], path: str) -> None:
    """Raises Flaw."""
    names: set[str] = set()
    for n, jwk in enumerate(keys):
        here = below(path, n)
        kid = jwk.get("kid", "")
        if not isinstance(kid, str):
            raise Flaw(below(here, "kid"), "expected a text")
        if kid in names:
            raise Flaw(below(here, "kid"), f"{kid[:60]!r} stands twice, and chooses the key")
        names.add(kid)
        _check_key(jwk, algorithms, here)


def usable(published: Sequence[Mapping[str, Any]], algorithms: Sequence[str]) -> list[Key]:
    """Of what an issuer publishes those that are for these algorithms, and sound; it may publish others beside."""
    found: list[Key] = []
    for jwk in published:
        try:
            _check_key(jwk, algorithms, "$")
        except Flaw:
            continue
        found.append(Key(jwk, algorithms))
    return found


def publishes(jwk: Any) -> dict[str, Any] | None:
    """Of one that stands in a published set what verifying takes; None: it is none that tokens are signed with, or too
    large, or a secret, which everybody knows then."""
    if not isinstance(jwk, dict) or any(name in jwk for name in _PRIVATE):
        return None
    kept = {name: jwk[name] for name in _KEPT if name in jwk}
    if not all(isinstance(value, str) and len(value) <= _MOST_TEXT for value in kept.values()):
        return None
    try:
        _check_key(kept, tuple(_KINDS), "$")
    except Flaw:
        return None
    return kept


def _check_key(jwk: Mapping[str, Any], algorithms: Sequence[str], path: str) -> None:
    if jwk.get("kty") == "oct":
        raise Flaw(path, "a secret, and who could read this document could make tokens; only public keys verify")
    if any(name in jwk for name in _PRIVATE):
        raise Flaw(path, "a private key; give its public part, and take this one out of use")
    if not _algorithms_for(jwk) & frozenset(algorithms):
        raise Flaw(path, f"a key for none of these algorithms: {', '.join(algorithms)}")
    key = _import(jwk, path)
    if jwk["kty"] == "RSA" and key.public_key.key_size < _LEAST_BITS:
        raise Flaw(path, f"{key.public_key.key_size} bits; at least {_LEAST_BITS}")


def _algorithms_for(jwk: Mapping[str, Any]) -> frozenset[str]:
    if jwk.get("use", "sig") != "sig":
        return frozenset()
    own = jwk.get("alg", "")
    own = "EdDSA" if own == "Ed25519" else own
    kind = jwk.get("kty"), jwk.get("crv", "")
    return frozenset([name for name, asked in _KINDS.items() if asked == kind and own in ("", name)])


def _import(jwk: Mapping[str, Any], path: str) -> Any:
    from joserfc import jwk as library

    wanted = ("kty", "crv", "x", "y", "n", "e")
    try:
        key = library.import_key({name: jwk[name] for name in wanted if name in jwk})
        if key.public_key is None:
            raise ValueError("no public key")
    except Exception:  # of which kind it is differs by what is wrong with a key
        raise Flaw(path, "no public key as RFC 7517 has them") from None
    return key
