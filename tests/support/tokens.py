"""Whom the tests trust: the public key of RFC 8037, and a provider that has it."""

from __future__ import annotations

from typing import Any

PUBLIC = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
PRIVATE = {**PUBLIC, "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}


def provider(*keys: dict[str, Any], algorithms: tuple[str, ...] = ("EdDSA",), **more: Any) -> dict[str, Any]:
    """One, by its keys."""
    known = {"issuer": "https://login", "audiences": ["lamps"], "algorithms": list(algorithms)}
    return {**known, "jwks": {"keys": list(keys) or [PUBLIC]}, **more}
