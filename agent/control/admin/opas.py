"""Open Policy Agents that `authz` documents have asked about instances of this host, and that are not: this agent's
settings do not let it, or they do not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from agent.control.mesh.documents.in_force import Policy
from policies.kinds.authz.outside import origin
from policies.language.names import matches

_NAMED: Final = b'"opa"'


class _Asked(msgspec.Struct, frozen=True):
    url: str
    on_failure: Literal["deny", "allow"] = "deny"


class _Asks(msgspec.Struct, frozen=True):
    """So much of an `authz` document; `msgspec` passes the rest over."""

    opa: _Asked | None = None


def url_of(place: tuple[str, int]) -> str:
    """As settings and documents write it."""
    host, port = place
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def unasked(
    policies: Mapping[str, Policy],
    services: Collection[str],
    allowed: Iterable[str],
    told: Iterable[Iterable[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Those of documents in force for services that have instances here, by pattern. `told`: by each worker, which do
    not answer it, why, and how often in a row."""
    may = {origin(url) for url in allowed}
    silent: dict[tuple[str, int], Mapping[str, Any]] = {}
    for each in (each for worker in told for each in worker):
        place = (str(each["host"]), int(each["port"]))
        if place not in silent or silent[place]["failures"] < each["failures"]:
            silent[place] = each
    found = []
    for pattern, policy in sorted(policies.items()):
        asked = _asked(policy.text)
        if asked is None or not any(matches(pattern, service) for service in services):
            continue
        place = origin(asked.url)
        known = silent.get(place)
        if place not in may or known is not None:
            found.append(
                {
                    "document": f"authz/{pattern}",
                    "url": url_of(place),
                    "allowed": place in may,
                    "reason": "" if known is None or place not in may else str(known["reason"]),
                    "failures": 0 if known is None or place not in may else int(known["failures"]),
                    "on_failure": asked.on_failure,
                    "audit": policy.audit,
                }
            )
    return found


def _asked(text: bytes) -> _Asked | None:
    return msgspec.json.decode(text, type=_Asks).opa if _NAMED in text else None
