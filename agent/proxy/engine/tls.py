# mypyc: compiled
"""A TLS connection that behaves as a plain socket does: who reads and writes it need not know.

Why not `ssl.SSLSocket`: when it says that it will write no more (close_notify), OpenSSL reads from the socket by
itself, and throws away what comes: an answer that is on its way to a tunnel is lost, and the next read says "end"
(tests/agent/proxy/test_tls.py shows both). Here OpenSSL reads from memory, which is empty by then. It costs fewer
system calls, too: one `recv` for any number of records, and one `send`.

Laws
- Nothing hides: each `recv` reads all that has come, up to the last record that is there only in part. What ends a
  connection behind data (close_notify, a broken record) keeps the socket readable, so that the loop comes again.
  Only the handshake may leave something behind; whoever takes its socket asks `pending`, once.
- An end without close_notify is a broken connection, never an end: who sits on the line cannot cut an answer short.
- As with OpenSSL, what could not be sent (BlockingIOError) is offered again, from the same byte on: some of it may be
  under way already. So what counts as sent has left, and at most MAX_SEND of ciphertext are held here.
- OpenSSL's memory grows to what it was once given, and stays so; so it is given pieces.

What each record passes asks `_ssl`'s object and not `ssl.SSLObject` around it, of which each method is a call of
interpreted Python that does nothing but this.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any, Final

from agent.tls.words import words

PIECE: Final = 16 * 1024
"""A record's payload, and what OpenSSL is fed at once."""
MAX_SEND: Final = 256 * 1024

_NEVER_MORE_UNSENT: Final = MAX_SEND + 64 * 1024


class TlsSocket:
    """What is read and written by a connection whose handshake is done."""

    __slots__ = (
        "_cut",
        "_ended",
        "_engine",
        "_error",
        "_incoming",
        "_left",
        "_object",
        "_outgoing",
        "_sock",
        "_taken",
        "_told",
    )

    def __init__(self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO):
        self._sock = sock
        self._object = tls
        self._engine: Any = tls._sslobj  # type: ignore[attr-defined]
        self._incoming = incoming
        self._outgoing = outgoing
        self._left = b""
        """Ciphertext that the kernel has not taken."""
        self._taken = 0
        """Bytes of plaintext that it is of, which are not counted as sent yet."""
        self._error: OSError | None = None
        """What has broken the connection, behind data that was handed out first."""
        self._ended = False
        """The other side has said that no more comes."""
        self._told = False
        """And we have."""
        self._cut = False

    @property
    def context(self) -> ssl.SSLContext:
        """What its handshake was made by: which of those of a server."""
        return self._object.context

    # As a socket.

    def fileno(self) -> int:
        """Of the socket below."""
        return self._sock.fileno()

    def getsockopt(self, level: int, option: int) -> int:
        """Of the socket below."""
        return self._sock.getsockopt(level, option)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Of the socket below. Who has closing reset the connection wants its end to be seen as a break."""
        self._cut = self._cut or (level == socket.SOL_SOCKET and option == socket.SO_LINGER)
        self._sock.setsockopt(level, option, value)

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """What has come, all of it; empty: the other side has said that no more comes. Raises BlockingIOError where
        nothing has, and OSError where the connection is broken. `flags`: MSG_PEEK, whether there is anything."""
        if flags:
            return self._peek(size, flags)
        if self._error is not None:
            raise self._error
        if self._ended:
            return b""
        parts: list[bytes] = []
        if self._incoming.pending:
            self._drain(parts)
        try:
            raw = self._sock.recv(size)
        except BlockingIOError:
            if parts:
                return b"".join(parts)
            self._raise_if_over()
            if self._ended:
                return b""
            raise
        except OSError as error:
            self._break(error)
        else:
            self._feed(raw, parts)
        if len(parts) == 1:
            return parts[0]
        if parts:
            return b"".join(parts)
        self._raise_if_over()
        if self._ended:
            return b""
        raise BlockingIOError(errno.EAGAIN, "no record is whole")

    def _feed(self, raw: bytes, parts: list[bytes]) -> None:
        if not raw:
            self._incoming.write_eof()
            self._drain(parts)
        elif len(raw) <= PIECE:
            self._incoming.write(raw)
            self._drain(parts)
        else:
            for start in range(0, len(raw), PIECE):
                self._incoming.write(raw[start : start + PIECE])
                self._drain(parts)
        if self._outgoing.pending:  # an answer of TLS's own, or an alert
            self._left += self._outgoing.read()
            self._flush_quietly()

    def _drain(self, parts: list[bytes]) -> None:
        """Read until there is no whole record."""
        while not self._ended and self._error is None:
            try:
                data = self._engine.read(PIECE)
            except ssl.SSLWantReadError:
                return
            except OSError as error:
                self._break(error)
                return
            if not data:
                self._ended = True
                self._stay_readable()
                return
            parts.append(data)
            if not self._incoming.pending and not self._engine.pending():
                return  # asking in vain costs an exception

    def _break(self, error: OSError) -> None:
        code = errno.EPROTO if isinstance(error, ssl.SSLError) or not error.errno else error.errno
        self._error = OSError(code, words(error))
        self._stay_readable()

    def _stay_readable(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # it is gone: that is readable, too

    def _raise_if_over(self) -> None:
        error = self._error
        if error is not None:
            raise error

    def _peek(self, size: int, flags: int) -> bytes:
        if self._error is not None or self._ended or self._incoming.pending:
            return b""
        return self._sock.recv(size, flags)

    def pending(self) -> int:
        """Bytes that were read from the socket and not by us: asked once, by whoever takes over from the handshake."""
        return self._incoming.pending

    def send(self, data: bytes | bytearray) -> int:
        """How much of it has left. Raises BlockingIOError where none has; then it is offered again."""
        if self._left:
            self._flush()
            taken, self._taken = self._taken, 0
            if taken:
                return taken
        if len(data) <= PIECE:
            return self._send_small(data)
        parts: list[bytes] = []
        taken = 0
        size = min(len(data), MAX_SEND)
        try:
            while taken < size:
                taken += self._engine.write(bytes(data[taken : min(taken + PIECE, size)]))
                parts.append(self._outgoing.read())
        except ssl.SSLError as error:
            raise OSError(errno.EPIPE, words(error)) from None
        self._left = b"".join(parts)
        self._taken = taken
        self._flush()
        self._taken = 0
        return taken

    def _send_small(self, data: bytes | bytearray) -> int:
        """What is one record, as most heads and answers are."""
        try:
            self._engine.write(data)
        except ssl.SSLError as error:
            raise OSError(errno.EPIPE, words(error)) from None
        self._left = self._outgoing.read()
        self._taken = len(data)
        self._flush()
        self._taken = 0
        return len(data)

    def _flush(self) -> None:
        """Have the kernel take all that is left; raises BlockingIOError where it does not."""
        while self._left:
            sent = self._sock.send(self._left)
            self._left = self._left[sent:] if sent < len(self._left) else b""

    def _flush_quietly(self) -> None:
        try:
            self._flush()
        except OSError:
            if len(self._left) > _NEVER_MORE_UNSENT:
                self._break(OSError(errno.EPROTO, "TLS: the other side asks for more than it takes"))

    # The end.

    def shutdown(self, how: int) -> None:
        """Say that no more comes from here."""
        if how != socket.SHUT_RD:
            self._tell()
        if not self._left:
            self._sock.shutdown(how)

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        try:
            self._object.unwrap()
        except OSError:
            pass  # it waits for the other side's word, which comes with the data; or there is nobody to tell
        if self._outgoing.pending:
            self._left += self._outgoing.read()
        self._flush_quietly()

    def close(self) -> None:
        """Close, and say so first if it can be said at once."""
        if not self._cut and self._error is None and not self._left:
            self._tell()
        self._sock.close()
