"""What a relay and a replay want of a broker, whichever it is; and how one is connected to."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol, TypeAlias

import trio

from policies.kinds.shed.topic import Place

CONNECT_S: Final = 5.0
ANSWER_S: Final = 10.0
"""For a broker's word on anything."""
GROUP: Final = "shoal-replay"
"""The consumer group, or subscription, that replays share."""

Judge = Callable[[str, str], str | None]
"""Why an address of a host may not be called; None when it may (agent.hooks.targets)."""


class BrokerError(Exception):
    """The broker is away, or does not do what is asked of it; the message is for people."""


class Credentials(NamedTuple):
    """Who we are to it."""

    user: str = ""
    secret: str = ""


class Verdict(NamedTuple):
    """The broker's word on one message."""

    number: int
    """As it was sent."""
    problem: str = ""
    """Empty: it has it."""


class Sender(Protocol):
    """A connection that messages go out by."""

    warning: str
    """What is wrong with the broker's own care for them; empty: nothing that we know of."""

    async def send(self, number: int, record: bytes, id: str) -> None:
        """Hand one over; its verdict comes later. Raises BrokerError."""

    def verdicts(self) -> AsyncIterator[Verdict]:
        """As they come. Raises BrokerError when no more will."""


class Message(NamedTuple):
    """One that came back."""

    token: str
    """What the broker knows it by."""
    record: bytes


class Receiver(Protocol):
    """A connection that messages come back by, each until it is settled."""

    async def receive(self, patience_s: float) -> Message | None:
        """The next; None when none has come for so long. Raises BrokerError."""

    async def settle(self, message: Message, *, done: bool) -> None:
        """It is done, and goes; or it is not, and comes again to the next replay. Raises BrokerError."""


class Broker(Protocol):
    """A topic's broker."""

    def sending(self) -> AbstractAsyncContextManager[Sender]:
        """Connect to send. Raises BrokerError."""

    def receiving(self, *, looking: bool) -> AbstractAsyncContextManager[Receiver]:
        """Connect to receive; only `looking`: nothing that is seen will be settled. Raises BrokerError."""


Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def connect(place: Place, judge: Judge | None) -> Stream:
    """A connection to where a topic is, to a judged address only. Raises BrokerError."""
    where = f"{place.host}:{place.port}"
    try:
        with trio.fail_after(CONNECT_S):
            stream = await _connect(place, judge)
            if not place.tls:
                return stream
            secure = trio.SSLStream(
                stream, ssl.create_default_context(), server_hostname=place.host, https_compatible=True
            )
            try:
                await secure.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return secure
    except trio.TooSlowError:
        raise BrokerError(f"{where} does not answer within {CONNECT_S:g} s") from None
    except trio.BrokenResourceError as error:
        raise BrokerError(f"{where}: no TLS: {error.__cause__ or error}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if isinstance(error.errno, int) and error.errno > 0 else str(error)
        raise BrokerError(f"{where}: {reason}") from None


async def _connect(place: Place, judge: Judge | None) -> trio.SocketStream:
    found = await trio.socket.getaddrinfo(place.host, place.port, type=trio.socket.SOCK_STREAM)
    problem: OSError = OSError(f"{place.host} has no address")
    for family, kind, protocol, _, address in found:
        reason = judge(place.host, str(address[0])) if judge is not None else None
        if reason is not None:
            raise BrokerError(reason)
        sock = trio.socket.socket(family, kind, protocol)
        try:
            await sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return trio.SocketStream(sock)
    raise problem
