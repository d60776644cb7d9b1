"""What workers are told of this agent's settings."""

from __future__ import annotations

from collections.abc import Mapping

from agent.frames import ClientCertificate, Configure, Limits, LocalUsers
from agent.settings.document import Settings
from policies.language.duration import seconds


def configuration(
    settings: Settings,
    callers: Mapping[str, str],
    local: LocalUsers,
    client_certificates: Mapping[str, ClientCertificate],
    *,
    records: bool,
    spans: bool,
) -> Configure:
    """Limits of the agent as a whole are divided among its workers. `callers`: whose each token's digest is; `local`:
    who on this host may be which service; `client_certificates`: by the service that is called. `records`: whether
    anybody takes records of requests, and `spans` of those that are traced."""
    limits = settings.limits
    count = settings.worker_count
    return Configure(
        host=settings.host,
        zone=settings.zone,
        callers=dict(callers),
        access_log=records,
        spans=spans,
        share=1 / count,
        agents=list(settings.inbound.agents),
        opas=list(settings.opa.allow),
        proxies=list(settings.trusted_proxies),
        local=local,
        client_certificates=dict(client_certificates),
        limits=Limits(
            max_connections=max(1, limits.max_connections // count),
            head_s=seconds(limits.head_timeout),
            idle_s=seconds(limits.idle_timeout),
            max_waiting=max(1, limits.max_waiting // count),
            head_bytes=limits.max_head_bytes,
            head_fields=limits.max_head_fields,
            underscores=limits.underscores,
            waiting_s=seconds(limits.waiting_timeout),
        ),
    )
