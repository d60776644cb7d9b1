"""etcd behind the Store contract: gRPC's own threads stay inside, callers see Trio.

A call is a gRPC future whose completion wakes the calling task; cancelling the task cancels the call. A watch is one
bidirectional stream, read by one thread that ends with it.

Laws
- Every call has a deadline. Reads and repeatable writes are tried on the other endpoints before they fail; a
  transaction is sent once, because nobody can know whether it was carried out.
- Watches require a leader: a member that was cut off ends them instead of going quiet.
- Authentication tokens run out (300 s by default), and are void when users or roles change: a call or a watch that is
  refused for that gets a new one and is made again. An etcd that asks for no authentication yet is used without.
- Where a connection goes is said by the settings, never by the environment: its `http_proxy` would be shown a password.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import trio

from registry.backoff import Backoff
from registry.etcd.proxying import through
from registry.etcd.stream import Stream, finished, grpc
from registry.etcd.stubs import load
from registry.etcd.wire import (
    address_of,
    bytes_of,
    change_of,
    check_size,
    comparison,
    credentials,
    is_authentication_off,
    is_stale_token,
    key_value,
    keys_of,
    operation,
    translate,
)
from registry.store import (
    Compacted,
    Compare,
    Delete,
    KeyValue,
    LeaseGone,
    NotTrusted,
    Outcome,
    Put,
    Range,
    Refused,
    StoreError,
    TooLarge,
    Unavailable,
    WatchBatch,
)

_rpc, _stubs = load()
T = TypeVar("T")

PAGE: Final = 2000
MAX_OPERATIONS: Final = 128
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long a connection may take to be made
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # not http_proxy, https_proxy and grpc_proxy of the environment
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
    proxy: str = ""
    """`http://address:port`: etcd is reached through a tunnel (CONNECT) of this proxy; empty: directly."""
    timeout_s: float = 5.0
    """For one call, all its tries included."""


class MemberStatus(NamedTuple):
    """What a member of etcd says of itself."""

    version: str
    size_bytes: int
    """Of its file, which its quota bounds."""
    in_use_bytes: int
    """Of that: what a defragmentation would leave."""
    errors: tuple[str, ...]
    """Alarms, such as `memberID:… alarm:NOSPACE`, and that it has no leader."""


class EtcdStore:
    """registry.store.Store on an etcd cluster."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Raises ValueError for endpoints that are none, OSError for certificate files that cannot be read."""
        self._settings = settings
        self._addresses = [address_of(endpoint) for endpoint in settings.endpoints]
        self._credentials = (
            credentials(settings.ca, settings.cert, settings.key)
            if any(secure for _, secure in self._addresses)
            else None
        )
        self._options = (*_OPTIONS, *through(settings.proxy))
        self._at = 0
        self._channel: Any = None
        self._token: str | None = None
        """Empty: etcd asks for none."""

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

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """A key, or None; as it stood at a revision."""
        answer = await self._repeatable("KV", "Range", _rpc.RangeRequest(key=bytes_of(key), revision=revision))
        return key_value(answer.kvs[0]) if answer.kvs else None

    async def range(self, start: str, end: str, *, revision: int = 0, keys_only: bool = False) -> Range:
        """The keys from `start` up to, and without, `end`, in pages at one revision."""
        items: list[KeyValue] = []
        cluster_id = 0
        first = bytes_of(start)
        while True:
            request = _rpc.RangeRequest(
                key=first, range_end=bytes_of(end), limit=PAGE, revision=revision, keys_only=keys_only
            )
            answer = await self._repeatable("KV", "Range", request)
            revision = revision or answer.header.revision
            cluster_id = answer.header.cluster_id
            items.extend(key_value(kv) for kv in answer.kvs)
            if not answer.more:
                return Range(items, revision, cluster_id)
            first = answer.kvs[-1].key + b"\0"

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Put a key; the revision."""
        check_size(key, value)
        request = _rpc.PutRequest(key=bytes_of(key), value=value, lease=lease)
        return int((await self._repeatable("KV", "Put", request)).header.revision)

    async def delete(self, key: str) -> int:
        """Delete a key; the revision."""
        answer = await self._repeatable("KV", "DeleteRange", _rpc.DeleteRangeRequest(key=bytes_of(key)))
        return int(answer.header.revision)

    async def delete_range(self, start: str, end: str) -> int:
        """Delete a range; the revision."""
        request = _rpc.DeleteRangeRequest(key=bytes_of(start), range_end=bytes_of(end))
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
            compare=[comparison(c) for c in compare],
            success=[operation(op) for op in success],
            failure=[operation(op) for op in failure],
        )
        answer = await self._call("KV", "Txn", request, self._settings.timeout_s)
        return Outcome(answer.succeeded, answer.header.revision)

    async def grant(self, ttl_s: int) -> int:
        """A new lease."""
        return int((await self._repeatable("Lease", "LeaseGrant", _rpc.LeaseGrantRequest(TTL=ttl_s))).ID)

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; seconds that it now has."""
        return await self._anywhere(partial(self._renew, lease))

    async def _renew(self, lease: int, timeout_s: float) -> int:
        async with self._stream("Lease", "LeaseKeepAlive", timeout_s, leader=True) as stream:
            stream.send(_rpc.LeaseKeepAliveRequest(ID=lease))
            with trio.move_on_after(timeout_s):
                answer = await stream.receive()
                if answer.TTL <= 0:
                    raise LeaseGone(f"lease {lease:x} has run out")
                return int(answer.TTL)
            self._rotate(stream.channel)
        raise Unavailable("no answer to a lease's renewal")

    async def revoke(self, lease: int) -> None:
        """End a lease."""
        try:
            await self._repeatable("Lease", "LeaseRevoke", _rpc.LeaseRevokeRequest(ID=lease))
        except LeaseGone:
            pass

    async def version(self) -> str:
        """Of the member that answers: `3.5.18`."""
        return (await self.status()).version

    async def status(self) -> MemberStatus:
        """What the member that answers says of itself."""
        told = await self._repeatable("Maintenance", "Status", _rpc.StatusRequest())
        return MemberStatus(str(told.version), int(told.dbSize), int(told.dbSizeInUse), tuple(map(str, told.errors)))

    @property
    def authenticated(self) -> bool | None:
        """Whether etcd asks who we are, as far as calls that succeeded show it; None: a certificate may say it."""
        if self._settings.user:
            return bool(self._token)
        return None if self._settings.cert else False

    async def aclose(self) -> None:
        """Close the channel."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    # How a call is made.

    async def _repeatable(self, service: str, method: str, request: Any) -> Any:
        return await self._anywhere(partial(self._call, service, method, request))

    async def _anywhere(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Something that may be done again: on the next endpoint when one does not answer, while there is time."""
        backoff = Backoff(0.05, 0.5)
        deadline = trio.current_time() + self._settings.timeout_s
        several = len(self._addresses) > 1
        while True:
            left_s = deadline - trio.current_time()
            share_s = max(left_s / 2 if several else left_s, 0.2)
            try:
                return await attempt(share_s)
            except (Unavailable, NotTrusted) as error:
                wait_s = backoff.next_s()
                helpless = isinstance(error, NotTrusted) and not several
                if helpless or trio.current_time() + wait_s >= deadline:
                    raise
                await trio.sleep(wait_s)

    async def _call(self, service: str, method: str, request: Any, timeout_s: float) -> Any:
        for attempt in range(2):
            metadata = await self._metadata(timeout_s, leader=False)
            channel = self._open()
            start = getattr(self._stub(service), method).future
            try:
                return await finished(partial(start, request, timeout=timeout_s, metadata=metadata))
            except grpc.RpcError as error:
                if attempt == 0 and self._forget_token(error, metadata):
                    continue
                raise self._translated(error, channel, keys_of(request)) from None
        raise AssertionError("unreachable")

    def _stub(self, service: str) -> Any:
        return getattr(_stubs, f"{service}Stub")(self._open())

    def _open(self) -> Any:
        if self._channel is None:
            address, secure = self._addresses[self._at]
            if secure:
                self._channel = grpc.secure_channel(address, self._credentials, options=self._options)
            else:
                self._channel = grpc.insecure_channel(address, options=self._options)
        return self._channel

    def _rotate(self, channel: Any) -> None:
        """Turn to the next endpoint, where there is one. Streams on the old channel end with it.

        `channel` is the one that failed: of all calls that failed on it only the first turns away from it.
        """
        if len(self._addresses) == 1 or channel is not self._channel:
            return
        self._at = (self._at + 1) % len(self._addresses)
        self._channel = None
        channel.close()

    def _translated(self, error: Any, channel: Any, about: str = "") -> StoreError:
        translated = translate(error, about)
        if isinstance(translated, Unavailable | NotTrusted):
            self._rotate(channel)
        return translated

    # Authentication.

    async def _metadata(self, timeout_s: float, *, leader: bool) -> list[tuple[str, str]]:
        metadata = [("hasleader", "true")] if leader else []
        if self._settings.user:
            if self._token is None:
                self._token = await self._authenticate(timeout_s)
            if self._token:
                metadata.append(("token", self._token))
        return metadata

    async def _authenticate(self, timeout_s: float) -> str:
        """A token; empty when etcd asks for none."""
        request = _rpc.AuthenticateRequest(name=self._settings.user, password=self._settings.password)
        channel = self._open()
        try:
            stub = self._stub("Auth")
            answer = await finished(lambda: stub.Authenticate.future(request, timeout=timeout_s))
        except grpc.RpcError as error:
            if is_authentication_off(error):
                return ""
            raise self._translated(error, channel) from None
        return str(answer.token)

    def _forget_token(self, error: Any, metadata: Sequence[tuple[str, str]]) -> bool:
        """Whether a call failed for its token, so that a new one may help; several may fail for the same."""
        if not self._settings.user or not is_stale_token(error):
            return False
        if self._token == dict(metadata).get("token", ""):
            self._token = None
        return True

    def _distrust_token(self) -> None:
        """A watch was refused: etcd 3.5 gives the same word for a token that ran out and for no permission."""
        self._token = None

    # Streams.

    @asynccontextmanager
    async def _stream(self, service: str, method: str, timeout_s: float, *, leader: bool) -> AsyncIterator[Stream]:
        metadata = await self._metadata(timeout_s, leader=leader)
        channel = self._open()

        def translated(error: Any) -> StoreError:
            self._forget_token(error, metadata)
            return self._translated(error, channel)

        stream = Stream(channel, getattr(self._stub(service), method), metadata, translated)
        try:
            yield stream
        finally:
            stream.cancel()

    @asynccontextmanager
    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[EtcdWatch]:
        """Watch a range from a revision on. Entered once etcd has confirmed it."""
        for attempt in range(2):
            async with self._stream("Watch", "Watch", self._settings.timeout_s, leader=True) as stream:
                watch = EtcdWatch(stream, self._distrust_token)
                try:
                    await self._create(stream, watch, start, end, revision)
                except NotTrusted:
                    raise
                except Refused as refused:
                    if attempt == 0 and self._settings.user:
                        continue
                    raise Refused(f"{refused}; asked for the keys from {start} to {end}") from None
                yield watch
                return

    async def _create(self, stream: Stream, watch: EtcdWatch, start: str, end: str, revision: int) -> None:
        create = _rpc.WatchCreateRequest(
            key=bytes_of(start), range_end=bytes_of(end), start_revision=revision, progress_notify=True
        )
        stream.send(_rpc.WatchRequest(create_request=create))
        with trio.move_on_after(self._settings.timeout_s) as waiting:
            await watch.confirmed()
        if waiting.cancelled_caught:
            self._rotate(stream.channel)
            raise Unavailable("no answer to the creation of a watch")


class EtcdWatch:
    """An open watch."""

    def __init__(self, stream: Stream, on_refused: Callable[[], None]) -> None:
        self._stream = stream
        self._on_refused = on_refused
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
        reason = answer.cancel_reason.rpartition("desc = ")[2]
        if any(word in reason for word in ("auth", "permission", "user name")):
            self._on_refused()
            raise Refused(f"etcd refuses the watch: {reason}")
        raise Unavailable(f"etcd ended the watch: {reason or 'without a reason'}")

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
            changes = [change_of(event) for event in answer.events]
            return WatchBatch(changes[-1].revision, changes)
        if answer.watch_id < 0 or answer.created:
            return WatchBatch(0, ())
        return WatchBatch(answer.header.revision, ())

    async def request_progress(self) -> None:
        """Ask for a sign of life."""
        self._stream.send(_rpc.WatchRequest(progress_request=_rpc.WatchProgressRequest()))
