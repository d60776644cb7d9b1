# mypyc: compiled
"""A request that has a client: who that is, how long it waits, and what is told of it to whoever is asked."""

from __future__ import annotations

import random

from agent.proxy.engine.reactor import INFINITY
from agent.proxy.messages.head import RequestHead
from agent.proxy.messages.outgoing import own_lines
from agent.proxy.request.walk import Walk
from agent.proxy.runtime import Runtime
from agent.proxy.stream import ResponseHandler, Stream
from policies.endpoint import Endpoint


class Served(Walk):
    """A request with its client's side."""

    __slots__ = (
        "allowed_s",
        "asked_deadline",
        "bytes_in",
        "bytes_out",
        "down",
        "request_id",
        "sent_at",
        "tried_at",
        "try_s",
        "whole_deadline",
    )

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, request)
        self.down = down
        self.request_id = b""
        self.whole_deadline = INFINITY
        self.asked_deadline = INFINITY
        """What the caller asked for of that, whatever documents say."""
        self.allowed_s = 0.0
        """For the whole, or from the request's last byte to the answer's first, by policy or rule; 0: no limit."""
        self.try_s = 0.0
        """For one try; 0: no limit."""
        self.sent_at = self.started
        """When it had come whole."""
        self.tried_at = self.started
        """When the first try at its service began."""
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def inbound(self) -> bool:
        """By which listener it came."""
        return self.down.inbound

    @property
    def rng(self) -> random.Random:
        """The worker's."""
        return self.runtime.rng

    @property
    def address(self) -> str:
        """Of whoever connected; empty where that is another agent."""
        return self.down.peer.client

    @property
    def vouched(self) -> str:
        """The client's address, as the mesh vouches for it; empty where nobody does."""
        return self.runtime.vouching.client_of(self.down.peer, self.request)

    @property
    def proven(self) -> str:
        """The SPIFFE id that whoever connected has proven; empty: none."""
        return self.down.peer.proven

    @property
    def trust_domain(self) -> str:
        """Where callers are known by credentials that this agent has given them: its own; else empty."""
        return "" if self.down.inbound else self.runtime.security.trust_domain

    @property
    def in_plain_text(self) -> bool:
        """Who comes to the door that is for other hosts has to prove who that is."""
        return self.down.inbound and self.down.peer.identity is None

    def lines_for(self, endpoint: Endpoint, attempt: int, left_s: float) -> list[bytes]:
        """What the mesh says of the request to an endpoint; `attempt` counts from 1, `left_s` is for its answer."""
        request = self.request
        return own_lines(
            request,
            endpoint,
            trail=self.down.peer.trail(request),
            request_id=self.request_id,
            caller=self.caller if self.stranger is None else self.stranger.id,
            client=self.vouched if endpoint.via and not endpoint.expected else "",
            attempt=attempt,
            left_s=left_s,
            by_policy=self.whole_deadline < self.asked_deadline,
        )

    def lines_for_copy(self, copy: ResponseHandler, endpoint: Endpoint, left_s: float) -> list[bytes]:
        """The same of a copy of the request, to an endpoint."""
        return self.lines_for(endpoint, 1, left_s)

    def on_copy_end(
        self, copy: ResponseHandler, endpoint: Endpoint, role: str, began: float, status: int, error: str
    ) -> None:
        """A copy that was made for `role` is over: with a status (0: there was no answer), or why there is none."""

    def left_s(self) -> float:
        """What is left of the time that somebody set for the whole request; INFINITY where nobody did.

        Only that travels. A default bounds one step on one host: taken for the whole, it would cut what lasts longer on
        the next host, while its bytes flow.
        """
        return self.whole_deadline - self.reactor.now
