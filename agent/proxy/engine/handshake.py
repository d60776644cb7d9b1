# mypyc: compiled
"""Handshakes of TLS, of both sides, before a connection is handed on: who is there is known by then, or nobody is.

    accepted ─▶ first byte ─▶ shaking ─▶ judged ─▶ greeted ─▶ secured(socket, identity)
                    └▶ plain(socket)       └─────────┴──────▶ failed(reason)
    connecting ───────────▶ shaking ─▶ judged ─▶ waiting ─▶ secured

A client of TLS 1.3 is through before the server has judged it. So two that speak GREETING's protocol (ALPN) agree that
the server says one line first, whether it accepts and else why not, and that the client sends nothing before. With
others there is no such line; what they refuse shows at the first read.

Laws
- Nothing is handed on that was not judged, and nothing is sent to whom was not accepted by us.
- A handshake has HANDSHAKE_S, whatever drips, and MAX_BYTES; those of a server have bounds together (`half_open`).
"""

from __future__ import annotations

import _ssl
import os
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agent.identity.verdict import Identity, Refused
from agent.proxy.engine.half_open import HalfOpen, Waiting
from agent.proxy.engine.reactor import BROKEN, READ, WRITE, Reactor
from agent.proxy.engine.tls import TlsSocket
from agent.tls.greeting import ACCEPTED, GREETING, MAX_LINE, REFUSED
from agent.tls.words import words

if TYPE_CHECKING:
    Judge = Callable[[list[bytes], ssl.SSLContext], Identity | Refused]
    """Who shows a chain, in a handshake by a context."""

HANDSHAKE_S: Final = 5.0
MAX_BYTES: Final = 64 * 1024
"""Of one handshake: a ClientHello, and a chain."""
TLS_BYTE: Final = 0x16

FIRST_BYTE: Final = 0
CONNECTING: Final = 1
SHAKING: Final = 2
WAITING: Final = 3
"""For the server's line."""
TELLING: Final = 4
"""The last bytes of a handshake that was accepted or refused are not taken yet."""
OVER: Final = 5


class Outcome:
    """Who is told what came of a handshake. Exactly one is called, once; the socket is then his, but for `failed`:
    then it is closed."""

    __slots__ = ("failed", "plain", "secured")

    def __init__(
        self,
        secured: Callable[[TlsSocket, Identity], None],
        failed: Callable[[str], None],
        plain: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self.secured = secured
        """This is who is there. What has come already is read by `recv` only: ask `pending`, once."""
        self.failed = failed
        """Nobody is there, and why. Nothing was sent that is any of his business."""
        self.plain = plain
        """Of a server: it begins with something else than TLS, of which nothing was taken. None: that is a failure."""


class Handshake(Waiting):
    """One of them."""

    __slots__ = (
        "_count",
        "_events",
        "_heard",
        "_identity",
        "_incoming",
        "_judge",
        "_left",
        "_line",
        "_object",
        "_outcome",
        "_outgoing",
        "_reactor",
        "_refusal",
        "_rests",
        "_server",
        "_sock",
        "state",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        context: ssl.SSLContext,
        judge: Judge,
        outcome: Outcome,
        count: HalfOpen | None = None,
        sni: str = "",
    ) -> None:
        """Of a server with `count`; else of a client, whose socket is connected, or about to be, and who calls `sni`.
        Raises OSError where epoll takes no more; the socket is then still the caller's."""
        super().__init__()
        self._reactor = reactor
        self._sock = sock
        self._judge = judge
        self._outcome = outcome
        self._count = count
        self._server = count is not None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=self._server, server_hostname=sni or None
        )
        self._heard = 0
        self._left = b""
        self._line = b""
        self._identity: Identity | None = None
        self._refusal = ""
        self._rests = False
        self._events = READ if self._server else WRITE
        self.state = FIRST_BYTE if self._server else CONNECTING
        reactor.add(sock.fileno(), self.on_event, self._events)
        reactor.wheel.arm(self, reactor.now + HANDSHAKE_S)
        if count is not None:
            count.enter(self)

    # What happens.

    def on_event(self, events: int) -> None:
        """The reactor's callback."""
        if self._rests:
            if events & BROKEN:
                self.fail("closed while its turn was awaited")
            return
        if self.state == FIRST_BYTE:
            if not self._look():
                return
        elif self.state == CONNECTING:
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.fail(os.strerror(code))
                return
            self.state = SHAKING
            self._advance(b"")
            return
        self._go(events)

    def _look(self) -> bool:
        """Whether what comes is TLS."""
        try:
            first = self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError as error:
            self.fail(words(error))
            return False
        if not first:
            self.fail("closed before it said anything")
        elif first[0] == TLS_BYTE:
            self.state = SHAKING
            return True
        else:
            self._hand_on_plain()
        return False

    def _hand_on_plain(self) -> None:
        plain = self._outcome.plain
        if plain is None:
            self.fail("it does not speak TLS, and nothing else is taken here")
            return
        self._leave()
        if self._count is not None:
            self._count.plain += 1
        plain(self._sock)

    def _go(self, events: int) -> None:
        if events & WRITE and self._left and not self._flush():
            return
        if self.state == TELLING:
            if not self._left:
                self._finish()
            return
        if events & (READ | BROKEN):
            if self._count is not None and not self._count.may_work(self):
                self._rests = True
                self._want(0)
                return
            self._read()

    def go_on(self) -> None:
        """There is time for what it has to do."""
        if self.state != OVER and self._rests:
            self._rests = False
            self._want(READ)
            self._read()

    def _read(self) -> None:
        try:
            raw = self._sock.recv(16 * 1024)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail_of_peer(words(error))
            return
        if not raw:
            self._fail_of_peer("it closed without a word")
            return
        self._heard += len(raw)
        if self._heard > MAX_BYTES:
            self.fail(f"a handshake of more than {MAX_BYTES} bytes")
            return
        count = self._count
        if count is None:
            self._advance(raw)
            return
        count.heard(self)
        since = count.now()
        self._advance(raw)
        count.spend(since)

    def on_deadline(self, now: float) -> None:
        """It took too long."""
        waited = "it did not say whether it accepts us" if self.state == WAITING else "the handshake was not done"
        self.fail(f"{waited} within {HANDSHAKE_S:.0f} s{self._unsent()}")

    # What is done.

    def _advance(self, raw: bytes) -> None:
        """Take what came as far as it goes."""
        if raw:
            self._incoming.write(raw)
        if self.state == SHAKING:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                self._send_outgoing()
                return
            except OSError as error:
                self._send_outgoing()  # an alert says why
                self._fail_of_peer(words(error))
                return
            self._judge_peer()
        elif self.state == WAITING:
            self._read_line()

    def _judge_peer(self) -> None:
        found = self._judge(chain_of(self._object), self._object.context)
        greets = self._object.selected_alpn_protocol() == GREETING
        if isinstance(found, Refused):
            self._refusal = found.reason
            if self._server and greets:
                self._object.write(REFUSED + found.reason[:MAX_LINE].encode(errors="replace") + b"\r\n")
                self._end_telling()
            else:
                self.fail(f"{found.reason}{self._unsent()}")
            return
        self._identity = found
        if self._server:
            if greets:
                self._object.write(ACCEPTED)
            self._end_telling()
        elif greets:
            self.state = WAITING
            self._send_outgoing()
            if self.state == WAITING and self._incoming.pending:
                self._read_line()
        else:
            self._end_telling()

    def _end_telling(self) -> None:
        self.state = TELLING
        self._send_outgoing()
        if self.state == TELLING and not self._left:
            self._finish()

    def _read_line(self) -> None:
        try:
            while b"\n" not in self._line:
                data = self._object.read(MAX_LINE)
                self._line += data
                if not data or len(self._line) > 2 * MAX_LINE:
                    break
        except ssl.SSLWantReadError:
            return
        except OSError as error:
            self._fail_of_peer(words(error))
            return
        if self._line == ACCEPTED:
            self._finish()
        elif self._line.startswith(REFUSED):
            reason = self._line[len(REFUSED) : MAX_LINE].decode(errors="replace").strip()
            self.fail(f"identity refused, nothing was sent: {reason}")
        else:
            self.fail("it said something else than whether it accepts us; nothing was sent")

    def _send_outgoing(self) -> None:
        if self._outgoing.pending:
            self._left += self._outgoing.read()
        self._flush()

    def _flush(self) -> bool:
        """Whether the handshake goes on. What the other side does not take now is left."""
        try:
            while self._left:
                sent = self._sock.send(self._left)
                self._left = self._left[sent:]
        except BlockingIOError:
            self._want(WRITE if self.state == TELLING else READ | WRITE)
            return True
        except OSError as error:
            self._fail_of_peer(words(error))
            return False
        self._want(READ)
        return True

    def _finish(self) -> None:
        identity, sock = self._identity, TlsSocket(self._sock, self._object, self._incoming, self._outgoing)
        if identity is None:
            self._leave()
            sock.close()
            if self._count is not None:
                self._count.failed += 1
            self._outcome.failed(self._refusal)
            return
        self._leave()
        if self._count is not None:
            self._count.secured += 1
        self._outcome.secured(sock, identity)

    # The end.

    def _fail_of_peer(self, reason: str) -> None:
        """The other side ended it. What a client hears then is that it was refused, or may have been."""
        if self.state == WAITING:
            may_be = "" if reason.startswith("identity refused") else "it may have refused our identity, "
            self.fail(f"{may_be}{reason}{self._unsent()}")
        else:
            self.fail(f"{reason}{self._unsent()}")

    def _unsent(self) -> str:
        return "" if self._server else "; nothing was sent"

    def fail(self, reason: str) -> None:
        """Give it up, and say why."""
        if self.state == OVER:
            return
        self._leave()
        self._sock.close()
        if self._count is not None:
            self._count.failed += 1
        self._outcome.failed(reason)

    def cancel(self) -> None:
        """Whoever began it wants it no more, and is told nothing."""
        if self.state != OVER:
            self._leave()
            self._sock.close()

    def abort(self) -> None:
        """A callback of this handshake failed, or its worker ends."""
        self.fail("an error of the agent's own")

    def _leave(self) -> None:
        self.state = OVER
        self._reactor.wheel.forget(self)
        self._reactor.remove(self._sock.fileno())
        if self._count is not None:
            self._count.leave(self)

    def _want(self, events: int) -> None:
        if events != self._events and self.state != OVER:
            self._events = events
            self._reactor.modify(self._sock.fileno(), events)


def chain_of(tls: ssl.SSLObject) -> list[bytes]:
    """What the other side showed (DER, its own certificate first); empty: nothing. Public from Python 3.13 on."""
    if tls.getpeercert(binary_form=True) is None:  # a server's chain has one all the same: None
        return []
    if hasattr(tls, "get_unverified_chain"):
        shown: list[bytes] = list(tls.get_unverified_chain())
        return shown
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_unverified_chain() or ()]
