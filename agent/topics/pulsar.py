"""Apache Pulsar by its WebSocket API: a producer, and a consumer of the subscription that replays share.

Pulsar keeps a message as long as a subscription has not acknowledged it, and deletes at once what no subscription wants
(and one that is made later begins behind everything). So before anything is produced the subscription is made: a
consumer in pull mode, which is sent nothing, connects and leaves.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import h11
import msgspec
import trio
import trio_websocket
import wsproto.utilities as wsproto

from agent.topics.broker import ANSWER_S, CONNECT_S, GROUP, BrokerError, Credentials, Judge, Message, Verdict, connect
from policies.kinds.shed.topic import PRODUCER, Place

CONSUMER: Final = "/ws/v2/consumer/persistent/"
PERMITS: Final = 16
MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
MAX_VERDICT_BYTES: Final = 64 * 1024
"""For what a producer is told. The agent reads only this, from hosts that a policy names."""


class _Socket:
    """Frames of JSON."""

    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection

    async def send(self, value: Mapping[str, Any]) -> None:
        """Raises BrokerError."""
        try:
            with trio.fail_after(ANSWER_S):
                await self._connection.send_message(msgspec.json.encode(value).decode())
        except trio.TooSlowError:
            raise BrokerError(f"Pulsar takes nothing for {ANSWER_S:g} s") from None
        except trio_websocket.ConnectionClosed as closed:
            raise BrokerError(_why(closed)) from None

    async def receive(self, wait_s: float = math.inf) -> dict[str, Any] | None:
        """The next object; None when none has come for so long. Raises BrokerError."""
        try:
            with trio.move_on_after(wait_s):
                value = msgspec.json.decode(await self._connection.get_message())
                if not isinstance(value, dict):
                    raise BrokerError("what answers is no Pulsar")
                return value
        except trio_websocket.ConnectionClosed as closed:
            raise BrokerError(_why(closed)) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BrokerError("what answers is no Pulsar") from None
        return None


def _why(closed: trio_websocket.ConnectionClosed) -> str:
    reason = closed.reason
    said = f": {reason.code} {reason.reason or reason.name}" if reason is not None else ""
    return f"Pulsar closed the connection{said}"


class _Sender:
    def __init__(self, socket: _Socket) -> None:
        self._socket = socket
        self.warning = ""

    async def send(self, number: int, record: bytes, id: str) -> None:
        payload = base64.b64encode(record).decode()
        await self._socket.send({"payload": payload, "properties": {"id": id}, "context": str(number)})

    async def verdicts(self) -> AsyncIterator[Verdict]:
        while True:
            told = await self._socket.receive()
            assert told is not None
            context = told.get("context")
            if not isinstance(context, str) or not context.isascii() or not context.isdigit():
                raise BrokerError(f"Pulsar: {told.get('result')}: {str(told.get('errorMsg') or '')[:200]}")
            if told.get("result") == "ok":
                yield Verdict(int(context))
            else:
                yield Verdict(int(context), f"Pulsar: {told.get('result')}: {str(told.get('errorMsg') or '')[:200]}")


class _Receiver:
    def __init__(self, socket: _Socket, *, looking: bool) -> None:
        self._socket = socket
        self._looking = looking
        self._permits = 0

    async def receive(self, patience_s: float) -> Message | None:
        if self._permits <= PERMITS // 2:
            await self._socket.send({"type": "permit", "permitMessages": PERMITS})
            self._permits += PERMITS
        told = await self._socket.receive(patience_s)
        if told is None:
            return None
        self._permits -= 1
        token = told.get("messageId")
        if not isinstance(token, str):
            raise BrokerError("what answers is no Pulsar")
        try:
            return Message(token, base64.b64decode(str(told.get("payload", "")), validate=True))
        except binascii.Error:
            return Message(token, b"")

    async def settle(self, message: Message, *, done: bool) -> None:
        if done and not self._looking:
            await self._socket.send({"messageId": message.token})


class Pulsar:
    """One topic."""

    def __init__(self, place: Place, credentials: Credentials, judge: Judge | None = None) -> None:
        self._place = place
        self._credentials = credentials
        self._judge = judge

    @asynccontextmanager
    async def _connected(self, path: str, query: Mapping[str, str], most: int) -> AsyncIterator[_Socket]:
        place = self._place
        stream = await connect(place, self._judge)
        host = f"[{place.host}]" if ":" in place.host else place.host
        token = self._credentials.secret
        headers = [(b"Authorization", b"Bearer " + token.encode())] if token else []
        resource = f"{path}?{urlencode(query)}" if query else path
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with trio.fail_after(CONNECT_S):
                        connection = await trio_websocket.wrap_client_stream(
                            nursery,
                            stream,
                            f"{host}:{place.port}",
                            resource,
                            extra_headers=headers,
                            message_queue_size=PERMITS,
                            max_message_size=most,
                        )
                except trio.TooSlowError:
                    raise BrokerError(f"Pulsar does not answer within {CONNECT_S:g} s") from None
                try:
                    yield _Socket(connection)
                finally:
                    with trio.move_on_after(1, shield=True):
                        await connection.aclose()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            problem = _problem(group)
            if problem is None:
                raise
            raise problem from None
        finally:
            await trio.aclose_forcefully(stream)

    def _consumer(self) -> tuple[str, dict[str, str]]:
        path = f"{CONSUMER}{self._place.name}/{GROUP}"
        return path, {"subscriptionType": "Shared", "pullMode": "true", "receiverQueueSize": str(PERMITS)}

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[_Sender]:
        """Connect to send. Raises BrokerError."""
        async with self._connected(*self._consumer(), MAX_VERDICT_BYTES):
            pass
        query = dict(parse_qsl(self._place.query))
        async with self._connected(PRODUCER + self._place.name, query, MAX_VERDICT_BYTES) as socket:
            yield _Sender(socket)

    @asynccontextmanager
    async def receiving(self, *, looking: bool) -> AsyncIterator[_Receiver]:
        """Connect to receive. Raises BrokerError."""
        async with self._connected(*self._consumer(), MAX_MESSAGE_BYTES) as socket:
            yield _Receiver(socket, looking=looking)


def _problem(group: BaseExceptionGroup[BaseException]) -> BrokerError | None:
    """What a group comes down to, most of which the library's own task raised; None: to something else."""
    found: list[BrokerError] = []
    for error in _leaves(group):
        if isinstance(error, BrokerError):
            found.insert(0, error)
        elif isinstance(error, trio_websocket.ConnectionRejected):
            hint = "; is the token right?" if error.status_code in (401, 403) else ""
            found.append(BrokerError(f"Pulsar refused the connection with {error.status_code}{hint}"))
        elif isinstance(error, trio_websocket.HandshakeError | wsproto.ProtocolError | h11.ProtocolError):
            found.append(BrokerError("what answers is no Pulsar"))
        else:
            return None
    return found[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
