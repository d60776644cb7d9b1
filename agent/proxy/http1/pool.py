# mypyc: compiled
"""Idle upstream connections, by the address they lead to; the one used last is used first.

What is secured has lanes of its own, by caller and callee: who was proven on a connection, and to whom, is part of it.
Law: a connection is used by nobody else, and not beyond the end of either certificate. A lane without a connection is
forgotten, not at once but when there are many: callers and services come and go, and who comes back has it made anew.
To instances that speak TLS themselves there are lanes by service and document: it is the host that is shown, whoever
calls.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from agent.process.descriptors import NONE_LEFT
from agent.proxy.engine.connection import Tally
from agent.proxy.engine.reactor import Reactor
from agent.proxy.http1.client import ClientConnection, ClientStream, Lane
from agent.proxy.http1.secured import OriginLane, SecuredConnection, Vault
from agent.proxy.messages.head import HeadRules
from agent.proxy.proof.origins import Origins, OriginWay
from agent.proxy.proof.security import Security
from agent.proxy.stream import ResponseHandler
from policies.kinds.tls.document import Origin

MAX_IDLE_PER_ADDRESS: Final = 256
IDLE_S: Final = 55.0
"""Below the 60 s after which many servers close."""
LANES_KEPT: Final = 256
"""Lanes below which nobody looks which of them are empty."""
FRESH_S: Final = 0.1
"""For so long after its last answer an idle connection is taken for one that is open: servers close what has been idle
for longer, and the reactor hears of it with its next events. Looking costs a system call that raises."""
_LOOKED_AFTER: Final = IDLE_S - FRESH_S


def tcp_socket(dial: tuple[str, int]) -> socket.socket:
    """A socket that is not connected yet, for an address."""
    family = socket.AF_INET6 if ":" in dial[0] else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Pool(Vault):
    """Decides and holds; connecting and closing is done by the connections themselves."""

    __slots__ = (
        "_sweep_at",
        "connects",
        "lanes",
        "make_socket",
        "most",
        "origins",
        "plain",
        "reactor",
        "reused",
        "secured",
    )

    def __init__(self, reactor: Reactor, heads: HeadRules) -> None:
        super().__init__(heads)
        self.reactor = reactor
        self.plain = Lane(None)
        self.lanes: dict[tuple[str, str], Lane] = {}
        """Of what is secured, by caller and callee."""
        self._sweep_at = LANES_KEPT
        """How many lanes there have to be for the empty ones to be looked for."""
        self.origins: dict[str, OriginLane] = {}
        """To instances that speak TLS themselves, by service."""
        self.secured: set[SecuredConnection] = set()
        self.make_socket: Callable[[tuple[str, int]], socket.socket] = tcp_socket
        """For tests."""
        self.most = 1 << 30
        """Connections beyond which none is kept idle."""
        self.reused = 0
        self.connects = 0

    def lane(self, caller: str, callee: str, security: Security) -> Lane | None:
        """Where a caller's connections to a service are kept that are secured; None: it cannot prove anything."""
        lane = self.lanes.get((caller, callee))
        if lane is None:
            way = security.way(caller, callee)
            if way is None:
                return None
            if len(self.lanes) >= self._sweep_at:
                self._sweep()
            lane = self.lanes[caller, callee] = Lane(way, (caller, callee))
        return lane

    def _sweep(self) -> None:
        """Forget lanes that nobody has a connection in. One that is being made there serves what it is made for, and
        is not kept then (`put`)."""
        used = {connection.lane.name for connection in self.secured}
        self.lanes = {name: lane for name, lane in self.lanes.items() if lane.idle or name in used}
        self._sweep_at = max(LANES_KEPT, 2 * len(self.lanes))

    def _all(self) -> list[Lane]:
        return [self.plain, *self.lanes.values(), *self.origins.values()]

    def take(
        self, lane: Lane, dial: tuple[str, int], *, verify: bool, tally: Tally | None = None
    ) -> ClientStream | None:
        """An idle connection to an address. One that is closed already is ruled out, by a system call: always where
        nothing may be sent twice (`verify`), else where it has been idle for more than a moment; what is used again at
        once costs a comparison, and is a matter of retries. `tally` has it from now on, where that matters."""
        idle = lane.idle.get(dial)
        while idle:
            stream = idle.pop()
            connection = stream.connection
            if (verify or self.reactor.now + _LOOKED_AFTER > connection.deadline) and connection.is_stale():
                connection.close()
                continue
            self.reused += 1
            counts = connection.tally
            if counts is not None and counts.most:
                counts.on_taken(connection)
            if tally is not counts and tally is not None and (tally.most or (counts is not None and counts.most)):
                connection.count_for(tally)
            return stream
        return None

    def bring_up(self, lane: Lane, dial: tuple[str, int], tally: Tally) -> bool:
        """Have an idle connection to an address that a tally counts be the next one taken; False: there is none."""
        idle = lane.idle.get(dial)
        if idle is None:
            return False
        for index in range(len(idle) - 1, -1, -1):
            if idle[index].connection.tally is tally:
                idle.append(idle.pop(index))
                return True
        return False

    def let_go(self, tally: Tally) -> None:
        """Close every idle connection that a tally counts."""
        for lane in self._all():
            for idle in list(lane.idle.values()):
                for stream in list(idle):
                    if stream.connection.tally is tally:
                        stream.connection.close()

    def open(
        self, lane: Lane, dial: tuple[str, int], handler: ResponseHandler, tally: Tally | None
    ) -> ClientStream | None:
        """A new one, about to be connected; None where this host has none left, which the handler has heard."""
        while True:
            try:
                sock = self.make_socket(dial)
                break
            except OSError as error:
                if error.errno in NONE_LEFT and self.free_one():
                    continue
                handler.on_unable(error.strerror or str(error), elsewhere=False)
                return None
        try:
            if lane.way is None:
                connection = ClientConnection(self.reactor, self, sock, dial, handler, tally, lane)
            else:
                connection = SecuredConnection(self.reactor, self, sock, dial, handler, tally, lane)
        except OSError as error:  # epoll takes no more
            sock.close()
            handler.on_unable(error.strerror or str(error), elsewhere=False)
            return None
        return ClientStream(connection, dial)

    def free_one(self) -> bool:
        """Close an idle connection, for its descriptor; False when there is none."""
        for lane in self._all():
            for idle in lane.idle.values():
                if idle:
                    idle[0].connection.close()
                    return True
        return False

    def put(self, stream: ClientStream) -> None:
        """Keep a connection for the next request; or close it, where there are plenty."""
        lane = stream.connection.lane
        if lane.name is not None and self.lanes.get(lane.name) is not lane:
            stream.connection.close()  # forgotten meanwhile: nobody would find it there
            return
        idle = lane.idle.get(stream.dial)
        if idle is None:
            idle = lane.idle[stream.dial] = []
        connection = stream.connection
        tally = connection.tally
        limited = tally is not None and tally.most > 0
        spent = False
        if lane.way is not None and isinstance(connection, SecuredConnection):
            connection.fresh = False
            spent = connection.spent
        if (
            spent
            or len(idle) >= MAX_IDLE_PER_ADDRESS
            or self.opened > self.most
            or (limited and tally is not None and tally.over)
        ):
            stream.connection.close()
            return
        idle.append(stream)
        stream.arm(self.reactor.now + IDLE_S)
        if limited and tally is not None:
            tally.on_idle(stream.connection)

    def forget(self, connection: ClientConnection) -> None:
        """An idle connection closed."""
        lane = connection.lane
        idle = lane.idle.get(connection.dial, [])
        for index, stream in enumerate(idle):
            if stream.connection is connection:
                del idle[index]
                break
        if not idle:
            lane.idle.pop(connection.dial, None)

    def drop(self, dial: tuple[str, int]) -> None:
        """Close every idle connection to an address that nobody has any more."""
        for lane in self._all():
            for stream in lane.idle.pop(dial, []):
                stream.connection.close()

    def close(self) -> None:
        """Close every idle connection."""
        for lane in self._all():
            for dial in list(lane.idle):
                self.drop(dial)

    @property
    def idle(self) -> int:
        """Idle connections, over all addresses."""
        return sum(len(idle) for lane in self._all() for idle in lane.idle.values())

    # What is secured.

    def renew(self, security: Security) -> None:
        """Trust has changed: new connections are made in the ways of now, or not at all. Those that are there go on."""
        for (caller, callee), lane in list(self.lanes.items()):
            way = security.way(caller, callee)
            if way is not None:
                lane.way = way
                continue
            del self.lanes[caller, callee]
            for idle in list(lane.idle.values()):
                for stream in list(idle):
                    stream.connection.close()

    def hold(self, connection: SecuredConnection, *, held: bool) -> None:
        """A connection is secured; or, not `held`, it is no more."""
        lane = connection.lane
        if isinstance(lane, OriginLane):
            lane.hold(connection, held=held)
        elif held:
            self.secured.add(connection)
        else:
            self.secured.discard(connection)

    # Instances that speak TLS themselves.

    def origin(self, service: str, origin: Origin, origins: Origins) -> Lane | str:
        """The connections to a service's instances; or why there can be none."""
        lane = self.origins.get(service)
        if lane is not None:
            if lane.origin is origin:
                return lane
            self.follow_origin(service, origin)
            lane = self.origins.get(service)
        if lane is None:
            way = origins.way(service, origin)
            if isinstance(way, str):
                return way
            lane = self.origins[service] = OriginLane(way, origin)
        return lane

    def follow_origin(self, service: str, origin: Origin | None) -> None:
        """What a document says by now; None: nothing. Connections that were made by another word go."""
        lane = self.origins.get(service)
        if lane is None:
            return
        if lane.origin == origin:
            lane.origin = origin
            return
        del self.origins[service]
        lane.retire()

    def renew_origins(self, origins: Origins) -> None:
        """There is something else to show: new connections are made with it. Those that are there finish."""
        for service, lane in list(self.origins.items()):
            way = lane.way
            assert isinstance(way, OriginWay)
            follows = origins.follows(way, service, lane.origin)
            if follows is way:
                continue
            del self.origins[service]
            if follows is not None:
                self.origins[service] = OriginLane(follows, lane.origin)
            lane.retire()
