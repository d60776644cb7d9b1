# mypyc: compiled
"""One socket of the proxy: reading, writing, back-pressure. Knows nothing of HTTP.

TLS slips in underneath: `sock` is a socket, or what reads and writes one like it (`agent.proxy.engine.tls`).

Laws
- What could not be written at once is held, up to a high-water mark; beyond it whoever feeds this connection is asked
  to pause, and to go on when it is drained. So memory for a stream is bounded whatever its size; what all of them
  hold is counted (`reactor.Buffers`), and has a bound, too.
- `abort` may be called at any time, any number of times.
- What the other side has sent is read, also when it takes nothing any more: it may have answered already.
"""

from __future__ import annotations

import socket
from typing import Final, TypeAlias

from agent.proxy.engine.reactor import BROKEN, READ, WRITE, Holder, Reactor
from agent.proxy.engine.tls import TlsSocket

Wire: TypeAlias = socket.socket | TlsSocket
_NOT_NOW: Final = (BlockingIOError, InterruptedError)


class Tally:
    """How many connections there are of a kind that somebody counts."""

    __slots__ = ("_connecting", "_open", "most")

    def __init__(self) -> None:
        self._connecting = 0
        self._open = 0
        self.most = 0
        """As many as there may be, and then it hears of each what follows `changed`; 0: any number."""

    @property
    def connecting(self) -> int:
        """Being made."""
        return self._connecting

    @connecting.setter
    def connecting(self, count: int) -> None:
        self._connecting = count
        self.changed()

    @property
    def open(self) -> int:
        """There, idle ones included."""
        return self._open

    @open.setter
    def open(self, count: int) -> None:
        self._open = count
        self.changed()

    def changed(self) -> None:
        """Either of them did."""

    @property
    def over(self) -> bool:
        """Whether there are more than there may be."""
        raise NotImplementedError

    def on_idle(self, connection: Connection) -> None:
        """One of them is free."""
        raise NotImplementedError

    def on_taken(self, connection: Connection) -> None:
        """One that was free is not."""
        raise NotImplementedError

    def on_gone(self, connection: Connection) -> None:
        """One of them is closed, or somebody else's."""
        raise NotImplementedError


class Connection(Holder):
    """A registered, non-blocking stream socket."""

    __slots__ = ("_events", "_out", "closed", "fd", "mute", "reactor", "sock")

    def __init__(self, reactor: Reactor, sock: Wire, events: int = READ) -> None:
        super().__init__()
        self.reactor = reactor
        self.sock: Wire = sock
        self.fd = sock.fileno()
        self.closed = False
        self.mute = False
        """The other side takes nothing any more; what is written is dropped."""
        self._out: bytearray | None = None
        self._events = events
        reactor.add(self.fd, self.on_event, events)

    # What a kind of connection does.

    def on_data(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError

    def on_eof(self) -> None:
        """The other side will send no more."""
        raise NotImplementedError

    def on_broken(self, error: OSError) -> None:
        """The connection failed."""
        raise NotImplementedError

    def on_write_failed(self, error: OSError) -> None:
        """The other side takes nothing any more."""
        self.on_broken(error)

    def on_drained(self) -> None:
        """All that was held has been written."""

    # The socket.

    def on_event(self, events: int) -> None:
        """The reactor's callback."""
        if events & WRITE:
            self._flush()
        if events & (READ | BROKEN) and not self.closed:
            try:
                data = self.sock.recv(self.reactor.buffers.piece)
            except _NOT_NOW:
                return
            except OSError as error:
                self.on_broken(error)
                return
            if data:
                self.on_data(data)
            else:
                self.on_eof()

    def write(self, data: bytes) -> None:
        """Send, or hold what cannot be sent now. Errors come back through `on_broken`, when the loop sees them."""
        if self._out is not None:
            if not self.mute:
                self._out += data
                self.reactor.buffers.grow(self, len(data))
            return
        try:
            sent = self.sock.send(data)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            self.on_write_failed(error)
            return
        if sent < len(data):
            self._out = bytearray(memoryview(data)[sent:])
            self.reactor.buffers.grow(self, len(data) - sent)
            self._want(self._events | WRITE)

    def _flush(self) -> None:
        out = self._out
        if out is None or self.mute:
            return
        try:
            sent = self.sock.send(out)
        except _NOT_NOW:
            return
        except OSError as error:
            self.on_write_failed(error)
            return
        self.reactor.buffers.shrink(self, sent)
        if sent < len(out):
            del out[:sent]
            return
        self._out = None
        self._want(self._events & ~WRITE)
        self.on_drained()

    def fall_mute(self) -> None:
        """Write no more, and go on reading."""
        self.mute = True
        if self._out is not None:
            self.reactor.buffers.shrink(self, len(self._out))
        self._out = bytearray()
        self._want(READ)

    @property
    def full(self) -> bool:
        """Whether whoever writes here should pause."""
        return self._out is not None and len(self._out) > self.reactor.buffers.high_water

    @property
    def flushed(self) -> bool:
        """Whether everything written has been handed to the kernel."""
        return self._out is None

    @property
    def reads(self) -> bool:
        """Whether it is read from now."""
        return self._events & READ != 0

    def pause_reading(self) -> None:
        """Take no more from the socket for now; the kernel's window closes by itself."""
        if self._events & READ:
            self._want(self._events & ~READ)

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._events & READ:
            self._want(self._events | READ)

    def _want(self, events: int) -> None:
        if events != self._events and not self.closed:
            self._events = events
            self.reactor.modify(self.fd, events)

    def finish_writing(self) -> None:
        """Tell the other side that no more comes."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # already gone: the reading side will see it

    def arm(self, deadline: float) -> None:
        """Have `on_deadline` called after `deadline` (monotonic seconds)."""
        self.reactor.wheel.arm(self, deadline)

    def close(self) -> None:
        """Close the socket, now. What is held is dropped."""
        if self.closed:
            return
        self.closed = True
        self._out = None
        if self.held:
            self.reactor.buffers.shrink(self, self.held)
        self.reactor.wheel.forget(self)
        self.reactor.remove(self.fd)
        self.sock.close()

    def abort(self) -> None:
        """Give this connection up."""
        self.close()
