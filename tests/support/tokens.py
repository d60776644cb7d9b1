"""Whom the tests trust: the public key of RFC 8037, and a provider that has it."""

from __future__ import annotations

import json
import warnings
from typing import Any

from joserfc import jwk, jws

PUBLIC = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
PRIVATE = {**PUBLIC, "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}


def provider(*keys: dict[str, Any], algorithms: tuple[str, ...] = ("EdDSA",), **more: Any) -> dict[str, Any]:
    """One, by its keys."""
    known = {"issuer": "https://login", "audiences": ["lamps"], "algorithms": list(algorithms)}
    return {**known, "jwks": {"keys": list(keys) or [PUBLIC]}, **more}


def token(claims: dict[str, Any], *, other: bool = False) -> str:
    """Signed by the provider's key, or by one that nobody knows."""
    key = jwk.OKPKey.generate_key("Ed25519") if other else jwk.import_key(PRIVATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(jws.serialize_compact({"alg": "EdDSA"}, json.dumps(claims), key, algorithms=["EdDSA"]))
