"""The proxy without sockets: a request and its answer read as a conversation, byte by byte.

    client, = play.clients(1)
    assert client >> GET                             # the client says
    up = play.upstream("one")                        # the proxy has connected there
    assert up << b"GET / HTTP/1.1\\r\\n...\\r\\n\\r\\n"      # the instance hears
    assert up >> OK                                  # and says
    assert client << b"HTTP/1.1 200 OK\\r\\n...ok"      # the client hears

The wire and the clock are the test's; everything between them is what runs in a worker.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from collections.abc import Mapping
from typing import Any

from agent.frames import EndpointFrame
from agent.proxy.given_up import GivenUp
from agent.proxy.http1.server import ServerConnection
from agent.proxy.peer import peer_at
from agent.proxy.worker import Worker
from policies.together import Together
from tests.support.proxy import AGENT, SERVICE, endpoint, staged

_DATE = re.compile(rb"(?<=\n)date: [A-Z][^\r\n]* GMT\r\n")
READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Wire:
    """A connection of the proxy, as it looks from the other side. It stands where a socket does."""

    def __init__(self, play: Playbook, name: str) -> None:
        self.play = play
        self.name = name
        self.heard = b""
        """By the other side, and not yet looked at."""
        self.closed = False
        """By the proxy."""
        self.finished = False
        """The proxy will send no more."""
        self.room: int | None = None
        """Bytes that the proxy may send until it has to wait; None: any number."""
        self.deaf = False
        """It takes nothing any more."""
        self._said: list[bytes] = []
        self._error = 0
        self._fd = os.eventfd(0)

    def __repr__(self) -> str:
        return f"<{self.name}{' closed' if self.closed else ''}>"

    # The other side.

    def __rshift__(self, data: bytes) -> Wire:
        """It says."""
        assert not self.closed, f"{self} was closed by the proxy"
        self._said.append(data)
        self._fire(READ)
        return self

    def __lshift__(self, expected: bytes) -> Wire:
        """It hears exactly this; `...` in it stands for anything. The date that the proxy adds is the machine's."""
        heard, self.heard = _DATE.sub(b"", self.heard), b""
        parts = expected.split(b"...")
        assert heard.startswith(parts[0]), f"{self} heard {heard!r}, not {expected!r}"
        at = len(parts[0])
        for part in parts[1:-1]:
            found = heard.find(part, at)
            assert found >= 0, f"{self} heard {heard!r}, without {part!r}"
            at = found + len(part)
        if len(parts) > 1:
            assert heard[at:].endswith(parts[-1]), f"{self} heard {heard!r}, not with {parts[-1]!r} at its end"
        else:
            assert heard == expected, f"{self} heard {heard!r}, not {expected!r}"
        return self

    def ends(self) -> Wire:
        """It will say no more."""
        self._said.append(b"")
        self._fire(READ)
        return self

    def breaks(self) -> Wire:
        """Reset."""
        self._error = errno.ECONNRESET
        self._fire(READ)
        return self

    def refuses(self) -> Wire:
        """The connection is not made."""
        self._error = errno.ECONNREFUSED
        self._fire(WRITE)
        return self

    def accepts(self) -> Wire:
        """It is made."""
        self._fire(WRITE)
        return self

    def takes(self, size: int | None) -> Wire:
        """So many bytes more; None: whatever comes."""
        self.room = size
        self._fire(WRITE)
        return self

    def _fire(self, events: int) -> None:
        reactor = self.play.worker.reactor
        callback = reactor._callbacks.get(self._fd)
        if callback is not None:
            callback(events)

    # The socket.

    def fileno(self) -> int:
        return self._fd

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self._error:
            raise OSError(self._error, os.strerror(self._error))
        if not self._said:
            raise BlockingIOError
        return self._said[0] if flags & socket.MSG_PEEK else self._said.pop(0)

    def send(self, data: bytes) -> int:
        if self.deaf:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                raise BlockingIOError
        self.heard += bytes(data)
        return len(data)

    def connect_ex(self, address: tuple[str, int]) -> int:
        return errno.EINPROGRESS

    def getsockopt(self, level: int, option: int) -> int:
        return self._error

    def setsockopt(self, *option: int) -> None:
        pass

    def setblocking(self, blocking: bool) -> None:
        pass

    def shutdown(self, how: int) -> None:
        self.finished = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._fd)


class Playbook:
    """One worker, its clients, its instances, its clock."""

    def __init__(
        self, seed: int = 1, host: str = "", given_up: GivenUp | None = None, together: Together | None = None
    ) -> None:
        """`given_up` and `together` are what several workers of one agent share."""
        self.worker = Worker(seed, given_up, together)
        self.worker.table.host = host
        self.worker.agents.learn({"another": AGENT}, host or "here")
        self.worker.pool.make_socket = self._dialled  # type: ignore[assignment]
        self.revision = 0
        self._connecting: list[tuple[int, Wire]] = []
        self._names: dict[int, str] = {}
        self._wires: list[Wire] = []

    def __enter__(self) -> Playbook:
        return self

    def __exit__(self, *failure: object) -> None:
        self.worker.close()
        for wire in self._wires:
            wire.close()

    def put(
        self,
        *names: str | EndpointFrame,
        service: str = SERVICE,
        audits: Mapping[str, object] | None = None,
        **documents: object,
    ) -> None:
        """A service's instances, by name or as they are, and its documents; in force at once, or only watched."""
        self.revision += 1
        found = [self.instance(each) if isinstance(each, str) else each for each in names]
        staged(self.worker, self.revision, found, service, documents, audits=audits)

    def instance(self, name: str, **more: Any) -> EndpointFrame:
        """One with a name."""
        port = 10_000 + len(self._names)
        self._names[port] = name
        return endpoint(port, name, **more)

    def client(self, *, inbound: bool = False, peer: str = AGENT) -> Wire:
        """A new connection; inbound, of another agent's, unless somebody else is said."""
        wire = Wire(self, "a caller's agent" if inbound else "the client")
        self._wires.append(wire)
        budget = self.worker.inbound if inbound else self.worker.outbound
        who = peer_at(peer, self.worker.agents if inbound else None)
        self.worker.on_accepted(wire, who, budget)  # type: ignore[arg-type]
        return wire

    def connection(self, wire: Wire) -> ServerConnection:
        """The proxy's end of a client's connection."""
        return next(each for each in self.worker.connections if each.fd == wire._fd)

    def dialled(self, name: str = "") -> Wire:
        """What the proxy is connecting to; not there yet."""
        assert self._connecting, "the proxy connects to nobody"
        port, wire = self._connecting.pop(0)
        assert not name or self._names[port] == name, f"connects to {self._names[port]}, not {name}"
        return wire

    def upstream(self, name: str = "") -> Wire:
        """What the proxy has just connected to."""
        return self.dialled(name).accepts()

    @property
    def idle(self) -> bool:
        """Whether it connects to nobody."""
        return not self._connecting

    def _dialled(self, dial: tuple[str, int]) -> Wire:
        wire = Wire(self, self._names.get(dial[1], str(dial)))
        self._wires.append(wire)
        self._connecting.append((dial[1], wire))
        return wire

    def passes(self, seconds: float) -> None:
        """Time does."""
        reactor = self.worker.reactor
        until = reactor.now + seconds
        while reactor.wheel._ticks and reactor.wheel._ticks[0] / 100 <= until:
            reactor.now = max(reactor.now, (reactor.wheel._ticks[0] + 0.01) / 100)  # never just before it, by rounding
            reactor.wheel.expire(reactor.now)
        reactor.now = until
