# mypyc: compiled
"""Whose fault it was that a request did not get an instance's whole answer, in one word of two parts.

    client    who called: what he sent, or that he left       agent     this host's agent
    service   the service, or the network on the way there    policy    a document said so: `policy.` and its kind

Laws
- What has `why` in its record has a flag, but for what a document had answered on purpose (a route, a topic), and what
  has a flag did not get a whole answer of an instance.
- An answer that an instance gave has none, whatever its status.
"""

from __future__ import annotations

from typing import Final

POLICY: Final = "policy."
CLIENT_GONE: Final = "client.gone"
CLIENT_SLOW: Final = "client.slow"
CLIENT_MALFORMED: Final = "client.malformed"
CLIENT_NO_SERVICE: Final = "client.no_service"
CLIENT_MISDIRECTED: Final = "client.misdirected"
CLIENT_DEADLINE: Final = "client.deadline"
SERVICE_NO_ENDPOINT: Final = "service.no_endpoint"
SERVICE_CONNECT: Final = "service.connect"
SERVICE_CONNECT_TIMEOUT: Final = "service.connect_timeout"
SERVICE_BUSY: Final = "service.busy"
SERVICE_INSECURE: Final = "service.insecure"
SERVICE_RESET: Final = "service.reset"
SERVICE_TIMEOUT: Final = "service.timeout"
SERVICE_BROKEN: Final = "service.broken"
SERVICE_CUT: Final = "service.cut"
AGENT_FULL: Final = "agent.full"
AGENT_NO_TABLE: Final = "agent.no_table"
AGENT_LOOP: Final = "agent.loop"
AGENT_UNABLE: Final = "agent.unable"
AGENT_CUT: Final = "agent.cut"

FLAGS: Final = (
    *(CLIENT_GONE, CLIENT_SLOW, CLIENT_MALFORMED, CLIENT_NO_SERVICE, CLIENT_MISDIRECTED, CLIENT_DEADLINE),
    *(SERVICE_NO_ENDPOINT, SERVICE_CONNECT, SERVICE_CONNECT_TIMEOUT, SERVICE_BUSY, SERVICE_INSECURE, SERVICE_RESET),
    *(SERVICE_TIMEOUT, SERVICE_BROKEN, SERVICE_CUT),
    *(AGENT_FULL, AGENT_NO_TABLE, AGENT_LOOP, AGENT_UNABLE, AGENT_CUT),
)
"""All there are, besides POLICY with a kind behind it."""

_BY_STATUS: Final = {
    ("http", 408): CLIENT_SLOW,
    ("http", 502): SERVICE_BROKEN,
    ("timeout", 408): CLIENT_SLOW,
    ("endpoint", 502): SERVICE_RESET,
    ("agent", 508): AGENT_LOOP,
}
_BY_PART: Final = {
    "http": CLIENT_MALFORMED,
    "service": CLIENT_NO_SERVICE,
    "timeout": SERVICE_TIMEOUT,
    "endpoint": SERVICE_CONNECT,
    "agent": AGENT_UNABLE,
}


def flag_of(policy: str, status: int) -> str:
    """Of an answer of the mesh's own, by who refused (`Refusal.policy`) and with what; where it says no more itself."""
    found = _BY_STATUS.get((policy, status)) or _BY_PART.get(policy)
    return found if found is not None else POLICY + policy
