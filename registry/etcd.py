"""etcd behind the Store contract: gRPC's own threads stay inside, callers see Trio.

A call is a gRPC future whose completion wakes the calling task; cancelling the task cancels the call. A watch is one
bidirectional stream, read by one thread that ends with it.

Laws
- Every call has a deadline. Reads and repeatable writes are tried on the other endpoints before they fail; a
  transaction is sent once, because nobody can know whether it was carried out.
- Watches require a leader: a member that was cut off ends them instead of going quiet.
- Authentication tokens run out (300 s by default): a call that is refused for that gets a new one and is made again.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec
import trio

from registry.backoff import Backoff
from registry.store import (
    Change,
    Compacted,
    Compare,
    Delete,
    KeyValue,
    LeaseGone,
    Outcome,
    Put,
    Range,
    Refused,
    StoreError,
    TooLarge,
    Unavailable,
    WatchBatch,
)

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from registry.stubs import load

_rpc, _stubs = load()

PAGE: Final = 2000
MAX_VALUE_BYTES: Final = 1_500_000
MAX_OPERATIONS: Final = 128
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where etcd is and who we are there."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    """`http://host:port`, or `https://` for TLS; `host:port` is http."""
    ca: str = ""
    """File with the certificates to trust; empty: the system's."""
    cert: str = ""
    key: str = ""
    """Files of a client certificate."""
    user: str = ""
    password: str = ""
    timeout_s: float = 5.0
    """For one call, all its tries included."""


class EtcdStore:
    """registry.store.Store on an etcd cluster."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Raises ValueError for endpoints that are none, OSError for certificate files that cannot be read."""
        self._settings = settings
        self._addresses = [_address(endpoint) for endpoint in settings.endpoints]
        self._credentials = _credentials(settings) if any(secure for _, secure in self._addresses) else None
        self._at = 0
        self._channel: Any = None
        self._token = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: EtcdSettings) -> AsyncIterator[EtcdStore]:
        """A store for the length of a block."""
        store = cls(settings)
        try:
            yield store
        finally:
            await store.aclose()

    # Calls.

    async def get(self, key: str) -> KeyValue | None:
        """A key, or None."""
        answer = await self._repeatable("KV", "Range", _rpc.RangeRequest(key=_bytes(key)))
        return _key_value(answer.kvs[0]) if answer.kvs else None

    async def range(self, start: str, end: str, *, revision: int = 0) -> Range:
        """The keys from `start` up to, and without, `end`, in pages at one revision."""
        items: list[KeyValue] = []
        cluster_id = 0
        first = _bytes(start)
        while True:
            request = _rpc.RangeRequest(key=first, range_end=_bytes(end), limit=PAGE, revision=revision)
            answer = await self._repeatable("KV", "Range", request)
            revision = revision or answer.header.revision
            cluster_id = answer.header.cluster_id
            items.extend(_key_value(kv) for kv in answer.kvs)
            if not answer.more:
                return Range(items, revision, cluster_id)
            first = answer.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Put a key; the revision."""
        _check_size(key, value)
        request = _rpc.PutRequest(key=_bytes(key), value=value, lease=lease)
        return int((await self._repeatable("KV", "Put", request)).header.revision)

    async def delete(self, key: str) -> int:
        """Delete a key; the revision."""
        answer = await self._repeatable("KV", "DeleteRange", _rpc.DeleteRangeRequest(key=_bytes(key)))
        return int(answer.header.revision)

    async def delete_range(self, start: str, end: str) -> int:
        """Delete a range; the revision."""
        request = _rpc.DeleteRangeRequest(key=_bytes(start), range_end=_bytes(end))
        return int((await self._repeatable("KV", "DeleteRange", request)).header.revision)

    async def transact(
        self, compare: Sequence[Compare], success: Sequence[Put | Delete], failure: Sequence[Put | Delete] = ()
    ) -> Outcome:
        """Do one or the other, as one revision."""
        if max(len(compare), len(success), len(failure)) > MAX_OPERATIONS:
            raise TooLarge(
                f"a transaction of {max(len(success), len(failure))} operations; etcd takes {MAX_OPERATIONS}"
            )
        request = _rpc.TxnRequest(
            compare=[_comparison(c) for c in compare],
            success=[_operation(op) for op in success],
            failure=[_operation(op) for op in failure],
        )
        answer = await self._call("KV", "Txn", request, self._settings.timeout_s)
        return Outcome(answer.succeeded, answer.header.revision)

    async def grant(self, ttl_s: int) -> int:
        """A new lease."""
        return int((await self._repeatable("Lease", "LeaseGrant", _rpc.LeaseGrantRequest(TTL=ttl_s))).ID)

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; seconds that it now has."""
        with trio.move_on_after(self._settings.timeout_s):
            async with self._stream("Lease", "LeaseKeepAlive", leader=True) as stream:
                stream.send(_rpc.LeaseKeepAliveRequest(ID=lease))
                answer = await stream.receive()
                if answer.TTL <= 0:
                    raise LeaseGone(f"lease {lease:x} has run out")
                return int(answer.TTL)
        self._rotate()
        raise Unavailable("no answer to a lease's renewal")

    async def revoke(self, lease: int) -> None:
        """End a lease."""
        try:
            await self._repeatable("Lease", "LeaseRevoke", _rpc.LeaseRevokeRequest(ID=lease))
        except LeaseGone:
            pass

    async def aclose(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # How a call is made.

    async def _repeatable(self, service: str, method: str, request: Any) -> Any:
        """A call that may be made again: on the next endpoint when one does not answer."""
        backoff = Backoff(0.05, 0.5)
        deadline = trio.current_time() + self._settings.timeout_s
        while True:
            left_s = deadline - trio.current_time()
            share_s = max(left_s / 2, 0.2) if len(self._addresses) > 1 else max(left_s, 0.2)
            try:
                return await self._call(service, method, request, share_s)
            except Unavailable:
                wait_s = backoff.next_s()
                if trio.current_time() + wait_s >= deadline:
                    raise
                await trio.sleep(wait_s)

    async def _call(self, service: str, method: str, request: Any, timeout_s: float) -> Any:
        for attempt in range(2):
            metadata = await self._metadata(leader=False)
            start = getattr(self._stub(service), method).future
            try:
                return await _finished(partial(start, request, timeout=timeout_s, metadata=metadata))
            except grpc.RpcError as error:
                if attempt == 0 and self._forget_token(error):
                    continue
                raise self._translated(error) from None
        raise AssertionError("unreachable")

    def _stub(self, service: str) -> Any:
        return getattr(_stubs, f"{service}Stub")(self._open())

    def _open(self) -> Any:
        if self._channel is None:
            address, secure = self._addresses[self._at]
            if secure:
                self._channel = grpc.secure_channel(address, self._credentials, options=_OPTIONS)
            else:
                self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        return self._channel

    def _rotate(self) -> None:
        """Turn to the next endpoint, where there is one. Streams on the old channel end with it."""
        if len(self._addresses) == 1:
            return
        self._at = (self._at + 1) % len(self._addresses)
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _translated(self, error: Any) -> StoreError:
        translated = _translate(error)
        if isinstance(translated, Unavailable):
            self._rotate()
        return translated

    # Authentication.

    async def _metadata(self, *, leader: bool) -> list[tuple[str, str]]:
        metadata = [("hasleader", "true")] if leader else []
        if self._settings.user:
            if not self._token:
                self._token = await self._authenticate()
            metadata.append(("token", self._token))
        return metadata

    async def _authenticate(self) -> str:
        request = _rpc.AuthenticateRequest(name=self._settings.user, password=self._settings.password)
        try:
            stub = self._stub("Auth")
            answer = await _finished(lambda: stub.Authenticate.future(request, timeout=self._settings.timeout_s))
        except grpc.RpcError as error:
            raise self._translated(error) from None
        return str(answer.token)

    def _forget_token(self, error: Any) -> bool:
        """Whether a call failed for an old token, so that a new one may help."""
        stale = error.code() == grpc.StatusCode.UNAUTHENTICATED or "invalid auth token" in (error.details() or "")
        if stale and self._token:
            self._token = ""
            return True
        return False

    # Streams.

    @asynccontextmanager
    async def _stream(self, service: str, method: str, *, leader: bool) -> AsyncIterator[_Stream]:
        metadata = await self._metadata(leader=leader)
        stream = _Stream(getattr(self._stub(service), method), metadata, self._stream_error)
        try:
            yield stream
        finally:
            stream.cancel()

    def _stream_error(self, error: Any) -> StoreError:
        self._forget_token(error)
        return self._translated(error)

    @asynccontextmanager
    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[EtcdWatch]:
        """Watch a range from a revision on. Entered once etcd has confirmed it."""
        async with self._stream("Watch", "Watch", leader=True) as stream:
            create = _rpc.WatchCreateRequest(
                key=_bytes(start), range_end=_bytes(end), start_revision=revision, progress_notify=True
            )
            stream.send(_rpc.WatchRequest(create_request=create))
            watch = EtcdWatch(stream, self)
            with trio.move_on_after(self._settings.timeout_s) as waiting:
                await watch.confirmed()
            if waiting.cancelled_caught:
                self._rotate()
                raise Unavailable("no answer to the creation of a watch")
            yield watch


class EtcdWatch:
    """An open watch."""

    def __init__(self, stream: _Stream, store: EtcdStore) -> None:
        self._stream = stream
        self._store = store
        self.cluster_id = 0
        self.revision = 0
        """etcd's revision when the watch was created."""

    async def confirmed(self) -> None:
        """Wait for etcd's word that the watch is there."""
        answer = await self._stream.receive()
        self._check(answer)
        self.cluster_id = answer.header.cluster_id
        self.revision = answer.header.revision

    def _check(self, answer: Any) -> None:
        if not answer.canceled:
            return
        if answer.compact_revision:
            raise Compacted(answer.compact_revision)
        if "auth" in answer.cancel_reason or "permission" in answer.cancel_reason:
            self._store._token = ""
            if "permission" in answer.cancel_reason:
                raise Refused(f"etcd refuses the watch: {answer.cancel_reason}")
        raise Unavailable(f"etcd ended the watch: {answer.cancel_reason or 'without a reason'}")

    async def receive(self) -> WatchBatch:
        """The next batch.

        Its revision is that of its last event, or of an automatic progress notification. An answer to
        `request_progress` only shows that the stream lives: etcd before 3.5.8 may give it ahead of events that are
        still to come (etcd issue 15220), so no revision is taken from it. Nor from the header of a batch of events:
        a watcher that catches up gets the current revision there, long before it has everything.
        """
        answer = await self._stream.receive()
        self._check(answer)
        if answer.events:
            changes = [_change(event) for event in answer.events]
            return WatchBatch(changes[-1].revision, changes)
        if answer.watch_id < 0 or answer.created:
            return WatchBatch(0, ())
        return WatchBatch(answer.header.revision, ())

    async def request_progress(self) -> None:
        """Ask for a sign of life."""
        self._stream.send(_rpc.WatchRequest(progress_request=_rpc.WatchProgressRequest()))


class _Stream:
    """A bidirectional stream: requests through a queue that gRPC drains, answers through one thread that reads."""

    def __init__(self, method: Any, metadata: list[tuple[str, str]], translate: Callable[[Any], StoreError]) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._translate = translate
        self._send, self._answers = trio.open_memory_channel[Any](float("inf"))
        self._error: Any = None
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._read, args=(token,), name="shoal-etcd-stream", daemon=True).start()

    def _read(self, token: trio.lowlevel.TrioToken) -> None:
        """In the thread; ends when the call does, which `cancel` sees to."""
        error: Any = None
        try:
            answers: Iterator[Any] = self._call
            for answer in answers:
                token.run_sync_soon(self._arrived, answer)
        except grpc.RpcError as failed:
            error = failed
        except trio.RunFinishedError:
            return
        try:
            token.run_sync_soon(self._ended, error)
        except trio.RunFinishedError:
            pass

    def _arrived(self, answer: Any) -> None:
        try:
            self._send.send_nowait(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # cancelled meanwhile

    def _ended(self, error: Any) -> None:
        self._error = error
        self._send.close()

    def send(self, request: Any) -> None:
        """Queue a request."""
        self._requests.put(request)

    async def receive(self) -> Any:
        """The next answer. Raises StoreError when the stream has ended."""
        try:
            return await self._answers.receive()
        except trio.EndOfChannel:
            pass
        if self._error is None:
            raise Unavailable("etcd closed the stream")
        raise self._translate(self._error)

    def cancel(self) -> None:
        """End the call, and the thread with it."""
        self._requests.put(None)
        self._call.cancel()
        self._answers.close()


async def _finished(start: Callable[[], Any]) -> Any:
    """Start a gRPC future and wait for it; cancelling the task cancels it. Raises grpc.RpcError."""
    future = start()
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    waiting = True

    def wake() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            trio.lowlevel.reschedule(task)

    def on_done(_: Any) -> None:
        try:
            token.run_sync_soon(wake)
        except trio.RunFinishedError:
            pass

    def on_cancel(_: Any) -> trio.lowlevel.Abort:
        nonlocal waiting
        waiting = False
        future.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    future.add_done_callback(on_done)
    await trio.lowlevel.wait_task_rescheduled(on_cancel)
    try:
        return future.result()
    except grpc.FutureCancelledError:
        raise Unavailable("the connection was given up for another endpoint") from None


_CODES: Final = grpc.StatusCode


def _translate(error: Any) -> StoreError:
    """gRPC's words in ours."""
    code = error.code()
    details = str(error.details() or code.name)
    if "requested lease not found" in details:
        return LeaseGone(details)
    if "required revision has been compacted" in details:
        return Compacted(0)
    if "space exceeded" in details:
        return Unavailable(f"etcd is full: {details}")
    if "too large" in details or "too many operations" in details or code == _CODES.RESOURCE_EXHAUSTED:
        return TooLarge(details)
    if code in (_CODES.PERMISSION_DENIED, _CODES.UNAUTHENTICATED, _CODES.INVALID_ARGUMENT):
        return Refused(f"etcd: {details}")
    if code == _CODES.FAILED_PRECONDITION:
        return Refused(f"etcd: {details}")
    return Unavailable(f"etcd: {details}")


def _address(endpoint: str) -> tuple[str, bool]:
    scheme, separator, rest = endpoint.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"{endpoint!r}: an etcd endpoint is http://host:port or https://host:port")
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"{endpoint!r}: an etcd endpoint has a host and a port, such as http://127.0.0.1:2379")
    return f"{host}:{port}", scheme == "https"


def _credentials(settings: EtcdSettings) -> Any:
    def read(path: str) -> bytes | None:
        if not path:
            return None
        with open(path, "rb") as file:
            return file.read()

    return grpc.ssl_channel_credentials(read(settings.ca), read(settings.key), read(settings.cert))


def _check_size(key: str, value: bytes) -> None:
    if len(value) > MAX_VALUE_BYTES:
        raise TooLarge(f"{key}: {len(value)} bytes; etcd takes up to {MAX_VALUE_BYTES}")


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(_text(kv.key), kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease)


def _change(event: Any) -> Change:
    kv = event.kv
    deleted = event.type == _rpc.Event.DELETE
    return Change(_text(kv.key), None if deleted else kv.value, kv.mod_revision)


def _comparison(compare: Compare) -> Any:
    if compare.create_revision is not None:
        return _rpc.Compare(
            key=_bytes(compare.key),
            target=_rpc.Compare.CREATE,
            result=_rpc.Compare.EQUAL,
            create_revision=compare.create_revision,
        )
    return _rpc.Compare(
        key=_bytes(compare.key),
        target=_rpc.Compare.MOD,
        result=_rpc.Compare.EQUAL,
        mod_revision=compare.mod_revision or 0,
    )


def _operation(operation: Put | Delete) -> Any:
    if isinstance(operation, Put):
        _check_size(operation.key, operation.value)
        put = _rpc.PutRequest(key=_bytes(operation.key), value=operation.value, lease=operation.lease)
        return _rpc.RequestOp(request_put=put)
    return _rpc.RequestOp(request_delete_range=_rpc.DeleteRangeRequest(key=_bytes(operation.key)))
