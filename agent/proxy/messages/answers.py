# mypyc: compiled
"""Responses that Shoal makes itself: cheap, and clear about who says no, under which policy, and why.

Each carries `server: shoal`, the policy and the reason in headers, and a JSON body with the same. One that is given
before anything was sent to an instance says so to a calling agent (`x-shoal-unsent`), which may then try elsewhere,
whatever the method.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from agent.proxy.messages.flags import AGENT_FULL, flag_of

_HEADER_BYTES: Final = 400
ALLOW: Final = b"allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
"""Of an agent itself; services may take others, which it passes on."""


class Refusal(NamedTuple):
    """Why a request is not served."""

    status: int
    policy: str
    """The kind that refused, or the part of the agent: `route`, `timeout`, `endpoint`, `http`, `service`, `agent`."""
    reason: str
    retry_after_s: int = 0
    unsent: bool = False
    """Proven: no instance saw any of this request."""
    flag: str = ""
    """Whose fault it is (`agent.proxy.messages.flags`); empty: what follows from policy and status."""

    @property
    def whose(self) -> str:
        """Its flag."""
        return self.flag or flag_of(self.policy, self.status)


FULL: Final = Refusal(503, "agent", "this agent has as many connections as it may", 1, unsent=True, flag=AGENT_FULL)
"""There is no place for another connection."""
OUT_OF_DESCRIPTORS: Final = Refusal(503, "agent", "this agent is out of descriptors", 1, unsent=True, flag=AGENT_FULL)


def header_text(text: str) -> bytes:
    """Text made safe for a header value: printable ASCII on one line, shortened."""
    return bytes(b if 0x20 <= b < 0x7F else 0x3F for b in text.encode("ascii", "replace")[:_HEADER_BYTES])


def refusal_body(refusal: Refusal, request_id: bytes) -> bytes:
    """The JSON body of a refusal."""
    return (
        msgspec.json.encode(
            {
                "status": refusal.status,
                "policy": refusal.policy,
                "reason": refusal.reason,
                "request_id": request_id.decode("latin-1"),
            }
        )
        + b"\n"
    )


def refusal_fields(refusal: Refusal, *, typed: bool = True) -> list[bytes]:
    """The header lines of a refusal, without framing; `typed`: with the type of the usual body."""
    fields = [
        b"server: shoal\r\n",
        b"x-shoal-policy: %b\r\n" % header_text(refusal.policy),
        b"x-shoal-reason: %b\r\n" % header_text(refusal.reason),
    ]
    if typed:
        fields.append(b"content-type: application/json\r\n")
    if refusal.retry_after_s:
        fields.append(b"retry-after: %d\r\n" % refusal.retry_after_s)
    if refusal.status == 405:
        fields.append(ALLOW)
    if refusal.status == 407:
        fields.append(b'proxy-authenticate: Basic realm="shoal"\r\n')
    if refusal.unsent:
        fields.append(b"x-shoal-unsent: 1\r\n")
    return fields


def stored(name: str, service: str, url: str) -> tuple[list[bytes], bytes]:
    """Header lines and body of the answer to a request that is on disk, and will be served later."""
    body = msgspec.json.encode({"status": 202, "id": name, "service": service, "topic": url}) + b"\n"
    return [
        b"server: shoal\r\n",
        b"x-shoal-policy: shed\r\n",
        b"x-shoal-stored: %b\r\n" % header_text(name),
        b"content-type: application/json\r\n",
    ], body
