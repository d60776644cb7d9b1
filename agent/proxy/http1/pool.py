# mypyc: compiled
"""Idle upstream connections, by the address they lead to; the one used last is used first."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from agent.process.descriptors import NONE_LEFT
from agent.proxy.engine.connection import Tally
from agent.proxy.engine.reactor import Reactor
from agent.proxy.http1.client import ClientConnection, ClientStream, Home
from agent.proxy.messages.head import HeadRules
from agent.proxy.stream import ResponseHandler

MAX_IDLE_PER_ADDRESS: Final = 256
IDLE_S: Final = 55.0
"""Below the 60 s after which many servers close."""
FRESH_S: Final = 0.1
"""For so long after its last answer an idle connection is taken for one that is open: servers close what has been idle
for longer, and the reactor hears of it with its next events. Looking costs a system call that raises."""
_LOOKED_AFTER: Final = IDLE_S - FRESH_S


def tcp_socket(dial: tuple[str, int]) -> socket.socket:
    """A socket that is not connected yet, for an address."""
    family = socket.AF_INET6 if ":" in dial[0] else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Pool(Home):
    """Decides and holds; connecting and closing is done by the connections themselves."""

    __slots__ = ("_idle", "connects", "make_socket", "most", "reactor", "reused")

    def __init__(self, reactor: Reactor, heads: HeadRules) -> None:
        super().__init__(heads)
        self.reactor = reactor
        self._idle: dict[tuple[str, int], list[ClientStream]] = {}
        self.make_socket: Callable[[tuple[str, int]], socket.socket] = tcp_socket
        """For tests, the wire; for TLS, what wraps it."""
        self.most = 1 << 30
        """Connections beyond which none is kept idle."""
        self.reused = 0
        self.connects = 0

    def take(self, dial: tuple[str, int], *, verify: bool, tally: Tally | None = None) -> ClientStream | None:
        """An idle connection to an address. One that is closed already is ruled out, by a system call: always where
        nothing may be sent twice (`verify`), else where it has been idle for more than a moment; what is used again at
        once costs a comparison, and is a matter of retries. `tally` has it from now on, where that matters."""
        idle = self._idle.get(dial)
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

    def bring_up(self, dial: tuple[str, int], tally: Tally) -> bool:
        """Have an idle connection to an address that a tally counts be the next one taken; False: there is none."""
        idle = self._idle.get(dial)
        if idle is None:
            return False
        for index in range(len(idle) - 1, -1, -1):
            if idle[index].connection.tally is tally:
                idle.append(idle.pop(index))
                return True
        return False

    def let_go(self, tally: Tally) -> None:
        """Close every idle connection that a tally counts."""
        for idle in list(self._idle.values()):
            for stream in list(idle):
                if stream.connection.tally is tally:
                    stream.connection.close()

    def open(self, dial: tuple[str, int], handler: ResponseHandler, tally: Tally | None) -> ClientStream | None:
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
            connection = ClientConnection(self.reactor, self, sock, dial, handler, tally)
        except OSError as error:  # epoll takes no more
            sock.close()
            handler.on_unable(error.strerror or str(error), elsewhere=False)
            return None
        return ClientStream(connection, dial)

    def free_one(self) -> bool:
        """Close an idle connection, for its descriptor; False when there is none."""
        for idle in self._idle.values():
            if idle:
                idle[0].connection.close()
                return True
        return False

    def put(self, stream: ClientStream) -> None:
        """Keep a connection for the next request; or close it, where there are plenty."""
        idle = self._idle.get(stream.dial)
        if idle is None:
            idle = self._idle[stream.dial] = []
        tally = stream.connection.tally
        limited = tally is not None and tally.most > 0
        if (
            len(idle) >= MAX_IDLE_PER_ADDRESS
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
        idle = self._idle.get(connection.dial, [])
        for index, stream in enumerate(idle):
            if stream.connection is connection:
                del idle[index]
                break
        if not idle:
            self._idle.pop(connection.dial, None)

    def drop(self, dial: tuple[str, int]) -> None:
        """Close every idle connection to an address that nobody has any more."""
        for stream in self._idle.pop(dial, []):
            stream.connection.close()

    def close(self) -> None:
        """Close every idle connection."""
        for dial in list(self._idle):
            self.drop(dial)

    @property
    def idle(self) -> int:
        """Idle connections, over all addresses."""
        return sum(map(len, self._idle.values()))
