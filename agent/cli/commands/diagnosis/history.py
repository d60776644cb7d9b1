"""What happened lately, without any webhook: by what stands in etcd, and what the agent here remembers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agent.findings.of_agent import lost_words

if TYPE_CHECKING:
    from registry.census import Census


def standing(census: Census) -> Iterator[dict[str, Any]]:
    """Since when instances are as they are, agents live, and policies are refused or held."""
    for (service, id), health in census.health.items():
        turned = "healthy" if health.healthy else "unhealthy"
        yield _row(health.since, "stands", f"instance.{turned}", f"{service}/{id}", service, health.reason)
    for host, agent in census.agents.items():
        yield _row(agent.started, "stands", "agent.joined", f"agents/{host}", "", f"version {agent.version}")
    for room, found in (("policies", census.rejected), ("audits", census.audits_rejected)):
        for (kind, pattern), refused in found.items():
            reason = f"{refused.path}: {refused.reason}"
            yield _row(refused.at, "stands", "policy.refused", f"{room}/{kind}/{pattern}", pattern, reason)
    for (kind, pattern), held in census.held.items():
        yield _row(held.at, "stands", "policy.held", f"policies/{kind}/{pattern}", pattern, held.reason)


def remembered(local: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Breakers, ejections and shedding, as the workers of this host's agent turned; whom it misses. Of its /state."""
    for lost in local.get("lost", ()):
        yield _row(lost["since"], "here", "agent.lost", f"agents/{lost['host']}", "", lost_words(lost))
    for turned in local["happened"]:
        at = datetime.fromtimestamp(turned["at"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        service, endpoint = turned["service"], turned["endpoint"]
        subject = f"{service}/{endpoint}" if endpoint else service
        audit = " (audit)" if turned["audit"] else ""
        yield _row(at, "here", f"{turned['kind']}.{turned['after']}{audit}", subject, service, turned["reason"])


def _row(time: str, state: str, type: str, subject: str, service: str, reason: str) -> dict[str, Any]:
    return {
        "time": time,
        "state": state,
        "type": type,
        "subject": subject,
        "service": service,
        "reason": reason,
        "hooks": "",
        "id": "",
    }
