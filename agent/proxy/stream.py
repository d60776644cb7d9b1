# mypyc: compiled
"""A request on its way, as the protocol that it came by sees it: who reads requests calls these, whatever the version.

What is to come as `http2/` reads into the same, and hands the same `RequestHead` on; nothing behind this page changes.
"""

from __future__ import annotations

from agent.proxy.engine.reactor import Timed
from agent.proxy.messages.head import RequestHead


class RequestHandler(Timed):
    """One request. It ends by its own doing; nothing is called after that."""

    __slots__ = ("request", "request_sent", "switched")

    def __init__(self, request: RequestHead) -> None:
        super().__init__()
        self.request = request
        self.request_sent = False
        """Whether it has come whole."""
        self.switched = False
        """Whether bytes go both ways, unread."""

    def start(self) -> None:
        """Its head is there, and so is the table."""
        raise NotImplementedError

    def on_request_data(self, data: bytes) -> None:
        """A piece of the body."""
        raise NotImplementedError

    def on_request_end(self, trailers: list[bytes]) -> None:
        """The request has come whole."""
        raise NotImplementedError

    def on_bad_request(self, status: int, reason: str) -> None:
        """The rest of the request cannot be read in one way only."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """The client took what was held for it."""

    def on_client_timeout(self) -> None:
        """The deadline that the client's side was armed with has passed."""
        raise NotImplementedError

    def on_client_gone(self) -> None:
        """The client closed: nobody waits for the answer."""
        raise NotImplementedError

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes from the client, after a switch."""

    def on_tunnel_eof(self) -> None:
        """The client has said all it has to say, after a switch."""
