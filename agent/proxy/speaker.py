# mypyc: compiled
"""Who speaks on an upstream connection: it sends one request there and is told what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.proxy.head import ResponseHead
    from agent.proxy.upstream import Upstream


class Speaker:
    """What `agent.proxy.upstream.Upstream` calls. An answer ends with a complete `on_response`, with `on_response_end`,
    or with one of the things that go wrong; nothing comes after that."""

    __slots__ = ("method", "up", "upgrade")

    def __init__(self, method: bytes, upgrade: bytes) -> None:
        self.method = method
        """Of the request: it decides how its answer is framed."""
        self.upgrade = upgrade
        """What it asks to switch to; empty: a 101 is a broken answer."""
        self.up: Upstream | None = None

    def on_connected(self, up: Upstream) -> None:
        """The connection is there."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """What was held of the request is sent."""
        raise NotImplementedError

    def on_informational(self, head: ResponseHead) -> None:
        """100 Continue, 103 Early Hints."""
        raise NotImplementedError

    def on_response(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        """The answer's head, and all of the body if it came along (`complete`)."""
        raise NotImplementedError

    def on_response_data(self, data: bytes) -> None:
        """A piece of the answer's body."""
        raise NotImplementedError

    def on_response_end(self, trailers: list[bytes]) -> None:
        """The answer has come whole."""
        raise NotImplementedError

    def on_switched(self, head: ResponseHead) -> None:
        """101: from here on bytes go both ways, unread."""
        raise NotImplementedError

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes from the upstream."""
        raise NotImplementedError

    def on_tunnel_eof(self, *, from_upstream: bool) -> None:
        """The upstream has said all it has to say."""
        raise NotImplementedError

    def on_lost(self, up: Upstream, reason: str, connecting: bool) -> None:
        """Connecting failed, or the connection broke before the answer was whole."""
        raise NotImplementedError

    def on_timeout(self, up: Upstream, connecting: bool) -> None:
        """It took longer than the connection was armed for."""
        raise NotImplementedError

    def on_bad_response(self, up: Upstream, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        raise NotImplementedError
