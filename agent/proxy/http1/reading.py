# mypyc: compiled
"""The answers that come by a connection to an endpoint that is spoken HTTP/1 to (RFC 9112).

They are judged as strictly as requests: an upstream that cannot be read without guessing gets its connection closed,
and the client a 502.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.engine.connection import Connection, Wire
from agent.proxy.engine.reactor import INFINITY, Reactor
from agent.proxy.http1.framing import ChunkedDecoder
from agent.proxy.http1.gathering import Gathered
from agent.proxy.http1.head import parse_response
from agent.proxy.http1.phase import Phase
from agent.proxy.messages.head import CHUNKED, LENGTH, NO_BODY, BadHead, HeadRules, ResponseHead
from agent.proxy.stream import ResponseHandler

MAX_INTERIM: Final = 100
"""Interim answers to a request. A service that says every ten seconds that it is at work may say so for a quarter of an
hour; one that says nothing else is broken."""


class Answers(Connection):
    """The half of a connection that reads."""

    __slots__ = (
        "_decoder",
        "_framing",
        "_heads",
        "_left",
        "_rules",
        "attempt",
        "interim",
        "phase",
        "reusable",
    )

    def __init__(self, reactor: Reactor, sock: Wire, events: int, rules: HeadRules, attempt: ResponseHandler) -> None:
        super().__init__(reactor, sock, events)
        self.attempt: ResponseHandler | None = attempt
        self.phase = Phase.CONNECTING
        self._rules = rules
        self._heads = Gathered(rules)
        self.interim = 0
        """Interim answers (1xx) to the current request so far."""
        self._framing = NO_BODY
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self.reusable = True

    # What comes back.

    def on_data(self, data: bytes) -> None:
        """Bytes of an answer."""
        try:
            if self.phase is Phase.HEAD:
                self._read_heads(data)
            elif self.phase is Phase.BODY:
                self._read_body(data)
            elif self.phase is Phase.TUNNEL:
                assert self.attempt is not None
                self.attempt.on_tunnel_data(data)
            else:  # idle: nobody asked
                self.close()
        except BadHead as bad:
            self._fail_badly(bad.reason)

    def _read_heads(self, data: bytes) -> None:
        attempt = self.attempt
        assert attempt is not None
        heads = self._heads
        heads.feed(data)
        while True:
            text = heads.head()
            if text is None:
                return
            head = parse_response(text, attempt.method, self._rules)
            if head.status >= 200:
                break
            if head.status == 101:
                self._switch(attempt, head, heads.take())
                return
            self.interim += 1
            if self.interim > MAX_INTERIM:
                raise BadHead(f"more than {MAX_INTERIM} interim answers (1xx), and no answer")
            attempt.on_informational(head)
            if self.attempt is not attempt:
                return
        self._begin_body(attempt, head, heads.take())

    def _switch(self, attempt: ResponseHandler, head: ResponseHead, data: bytes) -> None:
        if not attempt.upgrade:
            raise BadHead("101 Switching Protocols that nobody asked for")
        self.phase = Phase.TUNNEL
        self.reusable = False
        attempt.on_switched(head)
        if data and self.attempt is attempt:
            attempt.on_tunnel_data(data)

    def _begin_body(self, attempt: ResponseHandler, head: ResponseHead, data: bytes) -> None:
        framing = head.framing
        if head.close:
            self.reusable = False
        if framing == LENGTH and len(data) >= head.length:
            if len(data) > head.length:
                self.reusable = False
                data = data[: head.length]
            self.deadline = INFINITY
            attempt.on_response(head, data, True)
            return
        if framing == NO_BODY:
            if data:
                self.reusable = False
            self.deadline = INFINITY
            attempt.on_response(head, b"", True)
            return
        self.deadline = INFINITY
        self._framing = framing
        self._left = head.length
        self.phase = Phase.BODY
        if framing == CHUNKED:
            self._decoder = ChunkedDecoder()
        attempt.on_response(head, b"", False)
        if data and self.attempt is attempt:
            self._read_body(data)

    def _read_body(self, data: bytes) -> None:
        attempt = self.attempt
        assert attempt is not None
        if self._framing == LENGTH:
            if len(data) > self._left:
                self.reusable = False
                data = data[: self._left]
            self._left -= len(data)
            attempt.on_response_data(data)
            if not self._left and self.attempt is attempt:
                attempt.on_response_end([])
        elif self._framing == CHUNKED:
            decoder = self._decoder
            assert decoder is not None
            payload = decoder.feed(data)
            if payload:
                attempt.on_response_data(payload)
            if decoder.done and self.attempt is attempt:
                self._decoder = None
                if decoder.rest:
                    self.reusable = False
                attempt.on_response_end(decoder.trailers)
        else:
            attempt.on_response_data(data)

    def _fail_badly(self, reason: str) -> None:
        attempt, self.attempt = self.attempt, None
        self.close()
        if attempt is not None:
            attempt.on_bad_response(reason)
