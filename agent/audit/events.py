"""Which events audit logs have: whoever asks for one that is none is told so, and not that nothing happened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.audit.draft import DENYING
from agent.audit.record import BEGUN, ERASED, EXPIRED, LOST, SEALED
from policies.language.document import meant

EVENTS: Final = (
    *(f"{policy}.denied" for policy in DENYING),
    *(f"request.{came}" for came in ("allowed", "refused")),
    *(f"policy.{came}" for came in ("put", "removed", "refused")),
    *(f"identity.{of}" for of in ("granted", "host", "person", "invited", "issuer", "bundle", "federated", "revoked")),
    *(f"identity.{came}" for came in ("changed", "signed", "refused")),
    *(f"join.{came}" for came in ("redeemed", "refused")),
    "operator.asked",
    LOST,
    ERASED,
    EXPIRED,
    "audit.recovered",
    "audit.doubted",
    BEGUN,
    SEALED,
)
FIELDS: Final = (
    *("source", "event", "host", "service", "caller", "principal", "person", "client", "path", "method", "rule"),
    *("decision", "status", "reason", "policy", "kind", "pattern", "revision", "endpoint"),
)
"""What most records have, of what they are counted by; claims and fields of headers have names of their own."""


def wrong_event(asked: Iterable[str]) -> str:
    """What is wrong with events that are asked for, whole or by their beginning with a dot; empty: nothing."""
    for name in asked:
        known = any(event.startswith(name) for event in EVENTS) if name.endswith(".") else name in EVENTS
        if not known:
            family = f"{name}."
            if any(event.startswith(family) for event in EVENTS):
                return f"no event {name[:60]!r}; {family!r} is all that begin so"
            return f"no event {name[:60]!r}{meant(name, EVENTS)}; docs/audit.md lists them"
    return ""
