"""What a worker says of something that is to be recorded."""

from __future__ import annotations

from typing import Any, Final

import msgspec

DENYING: Final = ("authz", "authn", "isolation", "export", "tls", "egress", "path", "caller")
"""Policies whose refusals say who may not, rather than how much or when: an event of each."""


class Said(msgspec.Struct, frozen=True):
    """A record to be."""

    event: str
    at: float
    data: dict[str, Any]
    personal: dict[str, str] = {}
    """Values by which a person is known."""
    keep_s: float = 0.0
    """How long; 0: as the agent's settings say."""
    by_default: bool = True
    """Whether it is kept as long as these say, at least."""
