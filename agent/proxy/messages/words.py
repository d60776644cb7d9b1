# mypyc: compiled
"""The mesh's own words in heads (`x-shoal-*`): who has to say one for it to be believed. The tables are the law.

Laws
- What is not believed is taken out of the head before anybody looks at it: no policy matches it, nothing passes it on.
- A word that is in no table is believed from nobody.
- What makes a request be sent again or elsewhere is believed from agents only: a service that could say "nothing saw
  it" would have a POST done twice.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.answers import header_text
from agent.proxy.messages.flags import flag_of, is_flag
from agent.proxy.messages.head import (
    REBUILT,
    SHOAL_CALLER,
    SHOAL_CLIENT,
    SHOAL_DEADLINE,
    SHOAL_DEADLINE_BY,
    SHOAL_ENDPOINT,
    SHOAL_EXPLAIN,
    SHOAL_FLAG,
    SHOAL_NO_FAULT,
    SHOAL_NO_RETRY,
    SHOAL_POLICY,
    SHOAL_PRIORITY,
    SHOAL_REASON,
    SHOAL_REPLAY,
    SHOAL_SHADOW,
    SHOAL_SHED,
    SHOAL_UNSENT,
    RequestHead,
    ResponseHead,
    is_word,
)

_POLICY_CHARS: Final = 32
_ID_BYTES: Final = 256
"""Of a request's id that are said to its caller."""

# Who sends a request, as bits.
LOCAL: Final = 1
"""A client of the outbound listener, on this host's loopback."""
CLIENT: Final = 2
"""Another client of the outbound listener, where that does not listen on loopback alone."""
AGENT: Final = 4
"""Another host's agent, at the inbound listener (agent.trust)."""
STRANGER: Final = 8
"""Anybody else at the inbound listener."""

NAMED: Final = 16
"""A client of the outbound listener that is one of this host's services, by its credentials: beside what it is else.
What makes services leave something out, or lets a request in before others, only a service may hand on: who sits
before a browser passes on whatever that says."""

REQUESTS: Final = {
    SHOAL_DEADLINE: LOCAL | CLIENT | AGENT,
    SHOAL_DEADLINE_BY: AGENT,
    SHOAL_SHADOW: NAMED | AGENT,
    SHOAL_PRIORITY: NAMED | AGENT,
    SHOAL_REPLAY: LOCAL | CLIENT | AGENT,
    SHOAL_NO_FAULT: LOCAL | CLIENT,
    SHOAL_EXPLAIN: LOCAL | AGENT,
    SHOAL_CALLER: AGENT,
    SHOAL_CLIENT: AGENT,
    SHOAL_ENDPOINT: AGENT,
}

# Who answers a request, as bits.
SERVICE: Final = 1
"""An instance, on a connection to itself."""
CALLEE: Final = 2
"""The agent of an instance's host."""

ANSWERS: Final = {
    SHOAL_UNSENT: CALLEE,
    SHOAL_SHED: CALLEE,
    SHOAL_POLICY: CALLEE,
    SHOAL_REASON: CALLEE,
    SHOAL_FLAG: CALLEE,
    SHOAL_NO_RETRY: SERVICE | CALLEE,  # of a service: see `says_tried`
}


def disbelieve(request: RequestHead, sender: int) -> None:
    """Take out of a request what its sender has no say in. Asked only where `request.has_words`."""
    fields = [f for f in request.fields if not is_word(f.code) or REQUESTS.get(f.code, 0) & sender]
    if len(fields) == len(request.fields):
        return
    request.fields = fields
    request.special = [f for f in fields if f.code]
    request.wires = [f.wire for f in fields if f.code < REBUILT]


def tried(request_id: bytes) -> bytes:
    """The field that tells a service that all tries were made for its call. It names the request, so that it is worth
    nothing on an answer to another one, whoever hands it on."""
    return b"x-shoal-no-retry: %b\r\n" % _named(request_id)


def _named(request_id: bytes) -> bytes:
    return b"request=" + request_id[:_ID_BYTES]


def says_tried(response: ResponseHead, request_id: bytes, *, agent: bool) -> bool:
    """Whether an answer says that all tries were made for it (`x-shoal-no-retry`), and is believed: `agent`, as in
    `says`. A service may say so of its own answers (`1`), and hand on what it was told of a call that it made for the
    same request; both only make us do less, and for nobody but itself."""
    for field in response.special:
        if field.code == SHOAL_NO_RETRY:
            return agent or field.value == b"1" or field.value == _named(request_id)
    return False


def says(response: ResponseHead, code: int, *, agent: bool) -> bool:
    """Whether an answer says a word, and is believed; `agent`: an agent gave it, or passed it on."""
    sender = CALLEE if agent else SERVICE
    return bool(ANSWERS.get(code, 0) & sender) and any(field.code == code for field in response.special)


def says_unsent(response: ResponseHead, *, agent: bool) -> bool:
    """Whether an agent, and nobody else, says that no instance saw the request: it got no connection (503), or none in
    time (504)."""
    return 503 <= response.status <= 504 and says(response, SHOAL_UNSENT, agent=agent)


def flagged(flag: str) -> bytes:
    """The field that tells the calling agent whose fault a refusal is: it has the same to say of it as this one."""
    return b"x-shoal-flag: %b\r\n" % header_text(flag)


def far_reason(response: ResponseHead, enough: str) -> str:
    """Why another agent refuses, in its words, and why there was no other try (`enough`, if there is anything to say);
    empty where the answer is the service's own."""
    policy, reason = b"", b""
    for field in response.special:
        if field.code == SHOAL_POLICY:
            policy = field.value
        elif field.code == SHOAL_REASON:
            reason = field.value
    if not policy:
        return ""
    told = (reason or b"refused by the agent beside it: " + policy).decode("latin-1")
    return f"{told}; {enough}" if enough else told


def far_policy(response: ResponseHead) -> str:
    """Whose refusal another agent's answer is; empty where the answer is the service's own."""
    for field in response.special:
        if field.code == SHOAL_POLICY:
            return field.value.decode("latin-1")[:_POLICY_CHARS]
    return ""


def passed_on(response: ResponseHead, policy: str, attempts: int, enough: str) -> list[bytes]:
    """What another agent says of its refusal (`far_policy`), for whoever called: policy, reason, after how many
    `attempts`, and why there was no other (`enough`)."""
    return [
        b"x-shoal-policy: %b\r\n" % policy.encode("latin-1"),
        b"x-shoal-reason: %b\r\n" % header_text(far_reason(response, enough)),
        b"x-shoal-attempts: %d\r\n" % attempts,
    ]


def far_flag(response: ResponseHead, *, ours: bool) -> str:
    """Whose fault another agent's refusal was: as it says itself, if it is one of this mesh (`ours`); else, and of one
    that knows no such word, by its policy. Empty where the answer is the service's own."""
    policy = far_policy(response)
    if not policy:
        return ""
    said = next((field.value.decode("latin-1") for field in response.special if field.code == SHOAL_FLAG), "")
    return said if ours and is_flag(said) else flag_of(policy, response.status)
