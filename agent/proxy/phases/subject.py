# mypyc: compiled
"""What phases may read of a request. A leaf: it knows neither plans nor who sends."""

from __future__ import annotations

import random

from agent.proxy.engine.reactor import Reactor
from agent.proxy.messages.head import RequestHead
from agent.proxy.phases.view import HeadView
from agent.proxy.stream import RequestHandler
from policies.decision import Forward
from policies.kinds.authz.judge import Answer, Asked, Judge
from policies.kinds.ratelimit.limit import Quota
from policies.stranger import Stranger


class Heard:
    """What somebody said of a request who was asked about it."""

    __slots__ = ("answer", "asked", "judge")

    def __init__(self, judge: Judge, asked: Asked | None, answer: Answer) -> None:
        self.judge = judge
        self.asked = asked
        self.answer = answer


class Subject(RequestHandler):
    """A request that is decided about; or one that might be, for `explain`."""

    __slots__ = (
        "_heard",
        "_view",
        "branch",
        "caller",
        "claims",
        "entered_at",
        "hidden",
        "left",
        "reactor",
        "started",
        "stranger",
    )

    def __init__(self, request: RequestHead, reactor: Reactor) -> None:
        super().__init__(request)
        self.reactor = reactor
        self.caller = ""
        """The service that calls, as far as it is known."""
        self.stranger: Stranger | None = None
        """Who calls from another trust domain; None: nobody such."""
        self.started = reactor.now
        self.entered_at = reactor.now
        """When a breaker let it pass."""
        self.left: Quota | None = None
        """Of the limits that let it pass, what the one leaves that has least: its answer says so."""
        self.branch = -1
        """Of its service, as back-pressure tells requests apart; where that does, and how its shed phase notes it."""
        self.claims: dict[str, str] | None = None
        """Of a token, as the documents of the service have verified it whose other documents are asked now; None: they
        have not."""
        self.hidden: frozenset[bytes] | None = None
        """Headers that only the mesh says to that service, whatever a route makes of them."""
        self._view: HeadView | None = None
        self._heard: list[Heard] | None = None

    @property
    def supposed(self) -> dict[str, str] | None:
        """Claims that a request is taken to have, without a token; None: what it has counts."""
        return None

    @property
    def shows_claims(self) -> bool:
        """Whether what is told of it goes to who operates, claims and all."""
        return False

    @property
    def rng(self) -> random.Random:
        """Chance, for those that draw."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """Of whoever connected; empty where that is another agent."""
        raise NotImplementedError

    @property
    def vouched(self) -> str:
        """The client's address, as the mesh vouches for it; empty where nobody does."""
        raise NotImplementedError

    @property
    def in_plain_text(self) -> bool:
        """Whether it came from another host, on a connection without TLS."""
        raise NotImplementedError

    @property
    def proven(self) -> str:
        """The SPIFFE id that whoever connected has proven; empty: none."""
        raise NotImplementedError

    @property
    def trust_domain(self) -> str:
        """Where callers are known by credentials that this agent has given them: its own; else empty."""
        raise NotImplementedError

    @property
    def view(self) -> HeadView:
        """The request as policies see it; decoded when one asks."""
        view = self._view
        if view is None:
            view = self._view = HeadView(
                self.request,
                self.caller,
                self.address,
                self.in_plain_text,
                self.proven,
                self.trust_domain,
                self.stranger,
                self.vouched,
            )
            view.claims = self.claims
        return view

    def see_as(self, forward: Forward) -> None:
        """Have policies see a request as a route makes it."""
        self._view = view = HeadView(
            self.request,
            self.caller,
            self.address,
            self.in_plain_text,
            self.proven,
            self.trust_domain,
            self.stranger,
            self.vouched,
            rewritten=forward.target,
            host=forward.host,
            edits=forward.request_headers,
            hidden=self.hidden,
        )
        view.claims = self.claims

    def bear(self, claims: dict[str, str] | None) -> None:
        """Claims that were verified; None: none any more. A service's rules do not believe what another's documents
        have verified on the way there."""
        self.claims = claims
        view = self._view
        if view is not None:
            view.claims = claims

    def hear(self, judge: Judge, asked: Asked | None, answer: Answer) -> None:
        """Somebody was asked about it: that counts for this request, however long it counts for others."""
        if self._heard is None:
            self._heard = []
        self._heard.append(Heard(judge, asked, answer))

    def heard(self, judge: Judge, asked: Asked | None) -> Answer | None:
        """What he said to that."""
        if self._heard is not None:
            for each in self._heard:
                if each.judge is judge and each.asked == asked:
                    return each.answer
        return None

    def see_with(self, view: HeadView | None) -> HeadView | None:
        """Have policies see what they saw before; returns what they have seen until now."""
        before, self._view = self._view, view
        return before

    def forget_view(self) -> None:
        """Have policies see the request as it is now."""
        self._view = None
