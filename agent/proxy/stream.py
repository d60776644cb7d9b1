# mypyc: compiled
"""A request and its answer, as protocols and everything behind them meet: what stands here is all that either knows of
the other, whatever the version.

    a client's protocol  ─▶ RequestHandler    its request came          Stream   ─▶ the answer goes
    an endpoint's        ─▶ ResponseHandler   its answer came           Upstream ─▶ the request goes

Header lines are bytes, `name: value` with CRLF behind, one or more in a piece; a protocol that spells them otherwise
takes them apart. Bodies are bare: how they are framed on the wire is the protocol's.
"""

from __future__ import annotations

from agent.frames import Limits
from agent.process.descriptors import Reserve
from agent.proxy.budget import Budget
from agent.proxy.engine.connection import Connection, Wire
from agent.proxy.engine.reactor import Reactor, Timed
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import HeadRules, RequestHead, ResponseHead
from agent.proxy.peer import Peer
from agent.proxy.proof.security import Security
from agent.trust import Agents
from policies.decision import Edits


class RequestHandler(Timed):
    """One request. It ends by its own doing; nothing is called after that."""

    __slots__ = ("over", "request", "request_sent")

    def __init__(self, request: RequestHead) -> None:
        super().__init__()
        self.request = request
        self.request_sent = False
        """Whether it has come whole."""
        self.over = False

    @property
    def switched(self) -> bool:
        """Whether bytes go both ways, unread."""
        return False

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

    def on_cut(self) -> None:
        """This agent gives the client's connection up."""
        self.on_client_gone()

    def judge_anew(self) -> None:
        """Rules have changed that it may have passed."""

    def on_tunnel_data(self, data: bytes) -> None:
        """Bytes from the client, after a switch."""

    def on_tunnel_eof(self) -> None:
        """The client has said all it has to say, after a switch."""


class Stream:
    """Where a request came by, and its answer goes. Who takes the request ends with `on_handler_end`, once."""

    __slots__ = ("budget", "inbound", "peer", "reactor")

    def __init__(self, reactor: Reactor, peer: Peer, budget: Budget) -> None:
        self.reactor = reactor
        self.peer = peer
        self.budget = budget
        """Of the listener that it came by."""
        self.inbound = budget.inbound

    # The client's side.

    @property
    def closed(self) -> bool:
        """Whether nobody is there any more."""
        raise NotImplementedError

    @property
    def full(self) -> bool:
        """Whether whoever answers should pause."""
        raise NotImplementedError

    def arm(self, deadline: float) -> None:
        """Have the handler's `on_client_timeout` called after `deadline` (monotonic seconds)."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Take no more of the request for now."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Go on."""
        raise NotImplementedError

    # The answer.

    def send_continue(self) -> None:
        """100 Continue, of our own."""
        raise NotImplementedError

    def send_informational(self, head: ResponseHead) -> None:
        """Relay 100 Continue, 103 Early Hints: to those who know them."""
        raise NotImplementedError

    def send_response(
        self, head: ResponseHead, extra: list[bytes], body: bytes, complete: bool, edits: Edits | None
    ) -> None:
        """Relay an answer's head, and its body if that is complete."""
        raise NotImplementedError

    def send_body(self, data: bytes) -> None:
        """A piece of the answer's body; or of what the upstream says after a switch."""
        raise NotImplementedError

    def end_body(self, trailers: list[bytes]) -> None:
        """The end of the answer's body."""
        raise NotImplementedError

    def send_own(self, status: int, fields: list[bytes], body: bytes) -> None:
        """An answer of the mesh's own, whole."""
        raise NotImplementedError

    # Upgrade.

    def begin_tunnel(self, head: ResponseHead) -> None:
        """Relay a 101; from here on bytes go both ways, unread."""
        raise NotImplementedError

    def half_close(self, *, from_upstream: bool) -> bool:
        """One side of the tunnel is through. True when both are."""
        raise NotImplementedError

    # The end.

    def on_handler_end(self) -> None:
        """The request is over: the next one, or the end of the connection."""
        raise NotImplementedError

    def close_soon(self) -> None:
        """No other request comes by here."""
        raise NotImplementedError

    def abort(self) -> None:
        """Give it up: the client sees that the answer did not come whole."""
        raise NotImplementedError


class ResponseHandler:
    """Who speaks to an endpoint: it sends one request there and is told what comes of it.

    An answer ends with a complete `on_response`, with `on_response_end`, or with one of what can go wrong; nothing
    comes after that."""

    __slots__ = ("expected", "method", "tls_s", "up", "upgrade")

    def __init__(self, method: bytes, upgrade: bytes) -> None:
        self.tls_s = 0.0
        """How long a handshake took, where one was made for it."""
        self.expected = ""
        """Which service's instance on this host it is sent to; empty: to another host, or out of the mesh."""
        self.method = method
        """Of the request: it decides how its answer is framed."""
        self.upgrade = upgrade
        """What it asks to switch to; empty: a 101 is a broken answer."""
        self.up: Upstream | None = None

    def on_connected(self) -> None:
        """The connection is there."""
        raise NotImplementedError

    def on_room(self) -> bool:
        """It waits for a connection, and there may be one: whether there was."""
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

    def on_tunnel_eof(self) -> None:
        """The upstream has said all it has to say."""
        raise NotImplementedError

    def on_lost(self, reason: str, *, connecting: bool, sent: bool) -> None:
        """Connecting failed, or the connection broke before the answer was whole; `sent`: the endpoint may have seen
        some of the request."""
        raise NotImplementedError

    def on_unable(self, reason: str, *, elsewhere: bool) -> None:
        """This host could not even try to connect, for want of a descriptor, memory or a port: it tells nothing of the
        endpoint. `elsewhere`: to another it may be able to."""
        raise NotImplementedError

    def on_timeout(self, *, connecting: bool) -> None:
        """It took longer than the connection was armed for."""
        raise NotImplementedError

    def on_bad_response(self, reason: str) -> None:
        """The upstream sent what cannot be read in one way only."""
        raise NotImplementedError


class Upstream:
    """A way to an endpoint: takes one request at a time, and tells its ResponseHandler what comes of it."""

    __slots__ = ("dial",)

    def __init__(self, dial: tuple[str, int]) -> None:
        self.dial = dial
        """The address that it leads to."""

    def connect(self, source: str = "") -> None:
        """Begin to connect, from an address if one is given; the handler hears `on_connected` or `on_lost`, now or
        later."""
        raise NotImplementedError

    def send_request(
        self,
        handler: ResponseHandler,
        request: RequestHead,
        target: bytes,
        fields: list[bytes],
        own: list[bytes],
        body: list[bytes],
        trailers: list[bytes] | None,
    ) -> None:
        """Send a request's head, and what there is of its body. `fields`: what is passed on of the client's lines;
        `own`: those of the mesh; `trailers`: what comes behind the body, None: more of it is to come."""
        raise NotImplementedError

    def open_tunnel(self, handler: ResponseHandler) -> None:
        """Send nothing: from here on bytes go both ways, unread."""
        raise NotImplementedError

    def send_body(self, data: bytes) -> None:
        """A piece of the request's body; or of what the client says after a switch."""
        raise NotImplementedError

    def end_body(self, trailers: list[bytes]) -> None:
        """The end of the request's body."""
        raise NotImplementedError

    def finish_writing(self) -> None:
        """Tell the endpoint that no more comes."""
        raise NotImplementedError

    @property
    def sent(self) -> bool:
        """Whether the request's head has left: what comes of its body can be passed on at once."""
        raise NotImplementedError

    @property
    def full(self) -> bool:
        """Whether whoever sends should pause."""
        raise NotImplementedError

    def arm(self, deadline: float) -> None:
        """Have the handler's `on_timeout` called after `deadline` (monotonic seconds)."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Take no more of the answer for now."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Go on."""
        raise NotImplementedError

    def release(self, *, reusable: bool) -> None:
        """The handler is through with it; others may use it if the answer was read whole."""
        raise NotImplementedError

    def cut(self) -> None:
        """Give it up: nobody waits for its answer, and nothing is told of it any more."""
        raise NotImplementedError


class Server:
    """What protocols and listeners ask of whoever runs them."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.limits = Limits()
        self.heads = HeadRules()
        self.reserve = Reserve()
        self.draining = False
        self.agents = Agents()
        """Who is believed to be one, by address."""
        self.security = Security(self.reactor)

    def on_accepted(self, sock: Wire, peer: Peer, budget: Budget) -> None:
        """A client connected, to the listener that the budget is of."""
        raise NotImplementedError

    def handler(self, stream: Stream, request: RequestHead) -> RequestHandler:
        """Who takes a request whose head is there."""
        raise NotImplementedError

    def begin(self, stream: Stream, handler: RequestHandler) -> None:
        """Start it, or have it wait until there is a table."""
        raise NotImplementedError

    def forget(self, connection: Connection) -> None:
        """A client's connection closed."""
        raise NotImplementedError

    def on_refused(self, refusal: Refusal, address: str, inbound: bool, said: bytes) -> None:
        """A client was refused before there was a request: `said` is what came of one."""
        raise NotImplementedError
