"""Redis Streams: XADD, and a consumer group that replays share. Of its protocol (RESP2) what these need.

Redis answers in the order of the commands, so the verdict on a message is known by its place. A message is done when
XACK and XDEL have taken it out; what a replay took and did not finish is pending, and the next one gets it first.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from agent.topics.broker import ANSWER_S, GROUP, BrokerError, Credentials, Judge, Message, Stream, Verdict, connect
from policies.kinds.shed.topic import Place

FIELD: Final = "record"
"""Of an entry: the whole request; beside it stands its id, for people."""
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
MAX_PARTS: Final = 1_000_000
MAX_VERDICT_BYTES: Final = 64 * 1024
MAX_VERDICT_PARTS: Final = 100
"""Of one answer to who only sends. The agent reads only these, from hosts that a policy names."""
IDLE_MS: Final = 60_000
"""What another replay took so long ago and did not finish, we take over."""
_BATCH: Final = 16


class Refused(BrokerError):
    """Redis' own word (`-ERR …`): the connection goes on."""


def command(*words: str | bytes | int) -> bytes:
    """A command on the wire."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class Connection:
    """Commands out, answers in."""

    def __init__(self, stream: Stream, *, most_bytes: int = MAX_ANSWER_BYTES, most_parts: int = MAX_PARTS) -> None:
        """The bounds are of one answer, lists within lists included."""
        self._stream = stream
        self._most = (most_bytes, most_parts)
        self._left_bytes, self._left_parts = self._most
        self._buffer = bytearray()

    async def write(self, data: bytes) -> None:
        """Raises BrokerError."""
        try:
            with trio.fail_after(ANSWER_S):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise BrokerError(f"Redis takes nothing for {ANSWER_S:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise BrokerError("Redis closed the connection") from None

    async def ask(self, *words: str | bytes | int, more_s: float = 0.0) -> Any:
        """A command's answer; `more_s`: so long may Redis wait by itself. Raises BrokerError, of which Refused is
        Redis' own."""
        wait_s = ANSWER_S + more_s
        await self.write(command(*words))
        try:
            with trio.fail_after(wait_s):
                return await self.answer()
        except trio.TooSlowError:
            raise BrokerError(f"Redis does not answer within {wait_s:g} s") from None

    async def answer(self, depth: int = 0) -> Any:
        """The next answer: text as bytes, numbers, None, lists. Raises BrokerError."""
        if not depth:
            self._left_bytes, self._left_parts = self._most
        line = await self._line()
        self._take(len(line))
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Refused(f"Redis: {rest.decode('utf-8', 'replace')[:200]}")
        try:
            number = int(rest)
        except ValueError:
            raise BrokerError("what answers is no Redis") from None
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$" and number <= self._left_bytes:
            self._take(number)
            return (await self._bytes(number + 2))[:-2]
        if kind == b"*" and number <= self._left_parts and depth < 8:
            return [await self.answer(depth + 1) for _ in range(number)]
        raise BrokerError("what answers is no Redis")

    def _take(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        self._left_parts -= 1
        if self._left_bytes < 0 or self._left_parts < 0:
            raise BrokerError("an answer without end, where Redis was expected")

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > 64 * 1024:
                raise BrokerError("what answers is no Redis")
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _bytes(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _more(self) -> None:
        try:
            data = await self._stream.receive_some(64 * 1024)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise BrokerError("Redis closed the connection")
        self._buffer += data


class _Sender:
    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._sent: deque[int] = deque()
        self._some = trio.Event()
        self.warning = ""

    async def send(self, number: int, record: bytes, id: str) -> None:
        self._sent.append(number)
        self._some.set()
        await self._connection.write(command("XADD", self._stream, "*", "id", id, FIELD, record))

    async def verdicts(self) -> AsyncIterator[Verdict]:
        while True:
            while not self._sent:
                self._some = trio.Event()
                await self._some.wait()
            try:
                await self._connection.answer()
            except Refused as refused:
                yield Verdict(self._sent.popleft(), str(refused))
            else:
                yield Verdict(self._sent.popleft())


class _Receiver:
    """Pending entries of our own first, then those that others left, then new ones."""

    def __init__(self, connection: Connection, stream: str, *, looking: bool) -> None:
        self._connection = connection
        self._stream = stream
        self._looking = looking
        self._name = socket.gethostname()
        self._found: deque[Message] = deque()
        self._after = "-" if looking else "0"
        self._own = True

    async def begin(self) -> None:
        """Make the group, so that it gets all there is."""
        if self._looking:
            return
        try:
            await self._connection.ask("XGROUP", "CREATE", self._stream, GROUP, "0", "MKSTREAM")
        except Refused as refused:
            if "BUSYGROUP" not in str(refused):
                raise
        claim = ("XAUTOCLAIM", self._stream, GROUP, self._name, IDLE_MS, "0", "COUNT", 100_000, "JUSTID")
        await self._connection.ask(*claim)

    async def receive(self, patience_s: float) -> Message | None:
        if not self._found:
            for id, fields in await (self._look() if self._looking else self._read(patience_s)):
                named = dict(zip(fields[::2], fields[1::2], strict=False)) if fields else {}
                record = named.get(FIELD.encode())
                if record is not None:
                    self._found.append(Message(id.decode(), record))
                elif not self._looking:
                    await self._drop(id.decode())  # deleted by hand since it was taken, or none of ours
        return self._found.popleft() if self._found else None

    async def _look(self) -> Sequence[Any]:
        found = await self._connection.ask("XRANGE", self._stream, self._after, "+", "COUNT", _BATCH)
        if found:
            self._after = "(" + found[-1][0].decode()
        return found or []

    async def _read(self, patience_s: float) -> Sequence[Any]:
        if self._own:
            found = self._entries(await self._group(self._after))
            if found:
                self._after = found[-1][0].decode()
                return found
            self._own = False
        return self._entries(await self._group(">", patience_s))

    async def _group(self, after: str, patience_s: float = 0.0) -> Any:
        block = ("BLOCK", max(1, int(patience_s * 1000))) if patience_s else ()
        words = ("XREADGROUP", "GROUP", GROUP, self._name, "COUNT", _BATCH, *block, "STREAMS", self._stream, after)
        return await self._connection.ask(*words, more_s=patience_s)

    def _entries(self, answer: Any) -> Sequence[Any]:
        return answer[0][1] if answer else []

    async def settle(self, message: Message, *, done: bool) -> None:
        if done and not self._looking:
            await self._drop(message.token)

    async def _drop(self, id: str) -> None:
        await self._connection.write(command("XACK", self._stream, GROUP, id) + command("XDEL", self._stream, id))
        for _ in range(2):
            with trio.move_on_after(ANSWER_S) as scope:
                await self._connection.answer()
            if scope.cancelled_caught:
                raise BrokerError(f"Redis does not answer within {ANSWER_S:g} s")


class Redis:
    """One stream."""

    def __init__(self, place: Place, credentials: Credentials, judge: Judge | None = None) -> None:
        self._place = place
        self._credentials = credentials
        self._judge = judge

    @asynccontextmanager
    async def _connected(self, **bounds: int) -> AsyncIterator[Connection]:
        stream = await connect(self._place, self._judge)
        try:
            connection = Connection(stream, **bounds)
            user, secret = self._credentials
            if secret:
                await connection.ask("AUTH", *([user] if user else []), secret)
            if self._place.database:
                await connection.ask("SELECT", self._place.database)
            yield connection
        finally:
            await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[_Sender]:
        """Connect to send. Raises BrokerError."""
        async with self._connected(most_bytes=MAX_VERDICT_BYTES, most_parts=MAX_VERDICT_PARTS) as connection:
            sender = _Sender(connection, self._place.name)
            sender.warning = await _forgetful(connection)
            yield sender

    @asynccontextmanager
    async def receiving(self, *, looking: bool) -> AsyncIterator[_Receiver]:
        """Connect to receive. Raises BrokerError."""
        async with self._connected() as connection:
            receiver = _Receiver(connection, self._place.name, looking=looking)
            await receiver.begin()
            yield receiver


async def _forgetful(connection: Connection) -> str:
    """Whether this Redis forgets what it acknowledged when it dies; asked where it lets us."""
    try:
        found = await connection.ask("CONFIG", "GET", "appendonly")
    except Refused:
        return ""
    if found and found[-1] == b"no":
        return "this Redis keeps no append-only file (appendonly no): what it acknowledged is lost when it dies"
    return ""
