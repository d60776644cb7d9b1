# mypyc: compiled
"""Whose fault it was that a request did not get an instance's whole answer, in one word of two parts.

    client    who called: what he sent, or that he left       agent     this host's agent, or the calling one
    service   the service, or the network on the way there    policy    a document said so: `policy.` and its kind

Laws
- What has `why` in its record has a flag, but for what a document had answered on purpose (a route, a topic), and what
  has a flag did not get a whole answer of an instance.
- An answer that an instance gave has none, whatever its status.
- Over two hops both records have the same one: the agent beside the instance tells it (`x-shoal-flag`).
- What the calling agent gives up is nobody's fault (`is_fault`): why it did is in that agent's record.
"""

from __future__ import annotations

from typing import Final

from agent.requests.picking import FAULTLESS

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
AGENT_CANCELLED: Final = FAULTLESS

FLAGS: Final = (
    *(CLIENT_GONE, CLIENT_SLOW, CLIENT_MALFORMED, CLIENT_NO_SERVICE, CLIENT_MISDIRECTED, CLIENT_DEADLINE),
    *(SERVICE_NO_ENDPOINT, SERVICE_CONNECT, SERVICE_CONNECT_TIMEOUT, SERVICE_BUSY, SERVICE_INSECURE, SERVICE_RESET),
    *(SERVICE_TIMEOUT, SERVICE_BROKEN, SERVICE_CUT),
    *(AGENT_FULL, AGENT_NO_TABLE, AGENT_LOOP, AGENT_UNABLE, AGENT_CUT, AGENT_CANCELLED),
)
"""All there are, besides POLICY with a kind behind it."""

BAD_RESPONSE: Final = "bad_response"
ERRORS: Final = {
    CLIENT_DEADLINE: "timeout",
    SERVICE_CONNECT: "connect",
    SERVICE_CONNECT_TIMEOUT: "connect_timeout",
    SERVICE_INSECURE: "tls",
    SERVICE_RESET: "reset",
    SERVICE_TIMEOUT: "timeout",
    SERVICE_BROKEN: BAD_RESPONSE,
    AGENT_UNABLE: "agent",
}
"""How a try failed that got no answer, in a word, where its flag says so."""
_KINDS: Final = {"connect_timeout": "connect", "tls": "connect"}
"""Where counters tell less apart."""
_KNOWN: Final = frozenset(FLAGS)
_MAX_KIND: Final = 32

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


def is_flag(said: str) -> bool:
    """Whether what another agent says is one: names of kinds are its own, but no longer than those that there are."""
    kind = said.removeprefix(POLICY)
    return said in _KNOWN or (
        len(kind) < len(said) and len(kind) <= _MAX_KIND and kind.isascii() and kind.isidentifier()
    )


def kind_of(flag: str) -> str:
    """What counters call the failure of a try with a flag; empty: it got an answer."""
    error = ERRORS.get(flag, "")
    return _KINDS.get(error, error)
