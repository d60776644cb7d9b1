# mypyc: compiled
"""What phases may read of a request. A leaf: it knows neither plans nor who sends."""

from __future__ import annotations

import random

from agent.proxy.engine.reactor import Reactor
from agent.proxy.messages.head import RequestHead
from agent.proxy.phases.view import HeadView
from agent.proxy.stream import RequestHandler


class Subject(RequestHandler):
    """A request that is decided about; or one that might be, for `explain`."""

    __slots__ = ("_view", "caller", "entered_at", "reactor", "started")

    def __init__(self, request: RequestHead, reactor: Reactor) -> None:
        super().__init__(request)
        self.reactor = reactor
        self.caller = ""
        """The service that calls, as far as it is known."""
        self.started = reactor.now
        self.entered_at = reactor.now
        """When a breaker let it pass."""
        self._view: HeadView | None = None

    @property
    def rng(self) -> random.Random:
        """Chance, for those that draw."""
        raise NotImplementedError

    @property
    def view(self) -> HeadView:
        """The request as policies see it; decoded when one asks."""
        view = self._view
        if view is None:
            view = self._view = HeadView(self.request, self.caller)
        return view

    def see_as(self, target: str) -> None:
        """Have policies see a request for another path and query."""
        self._view = HeadView(self.request, self.caller, target)

    def forget_view(self) -> None:
        """Have policies see the request as it is now."""
        self._view = None
