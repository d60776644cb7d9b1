"""How a lease is renewed in etcd, by calls that block, on a channel of its own: for the thread of `registry.renewal`.

Law: the channel goes where the store's go, through the settings' proxy, or through none.
"""

from __future__ import annotations

from typing import Any, Final

from registry.etcd.proxying import through
from registry.etcd.store import EtcdSettings
from registry.etcd.stream import grpc
from registry.etcd.stubs import load
from registry.etcd.wire import address_of, credentials, is_authentication_off, is_stale_token, translate
from registry.store import LeaseGone, NotTrusted, StoreError, Unavailable

_rpc, _stubs = load()
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
)


class EtcdRenewer:
    """registry.renewal.Renewer on an etcd cluster."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Raises as EtcdStore does."""
        self._settings = settings
        self._addresses = [address_of(endpoint) for endpoint in settings.endpoints]
        secure = any(secure for _, secure in self._addresses)
        self._credentials = credentials(settings.ca, settings.cert, settings.key) if secure else None
        self._options = (*_OPTIONS, *through(settings.proxy))
        self._at = 0
        self._channel: Any = None
        self._token = ""

    def renew(self, lease: int, timeout_s: float) -> None:
        """One try, at the endpoint that answered last; after a failure at the next."""
        for attempt in range(2):
            try:
                return self._once(lease, timeout_s)
            except grpc.RpcError as error:
                if attempt == 0 and self._settings.user and is_stale_token(error):
                    self._token = ""
                    continue
                raise self._translated(error) from None
            except ValueError:
                raise Unavailable("the channel was closed") from None

    def _once(self, lease: int, timeout_s: float) -> None:
        channel = self._open()
        metadata = [("hasleader", "true")]
        if self._settings.user:
            self._token = self._token or self._authenticate(channel, timeout_s)
            metadata += [("token", self._token)] if self._token else []
        requests = iter((_rpc.LeaseKeepAliveRequest(ID=lease),))
        call = _stubs.LeaseStub(channel).LeaseKeepAlive(requests, timeout=timeout_s, metadata=metadata)
        try:
            answer = next(call, None)
        finally:
            call.cancel()
        if answer is None:
            raise Unavailable("no answer to a lease's renewal")
        if answer.TTL <= 0:
            raise LeaseGone(f"lease {lease:x} has run out")

    def _authenticate(self, channel: Any, timeout_s: float) -> str:
        request = _rpc.AuthenticateRequest(name=self._settings.user, password=self._settings.password)
        try:
            return str(_stubs.AuthStub(channel).Authenticate(request, timeout=timeout_s).token)
        except grpc.RpcError as error:
            if is_authentication_off(error):
                return ""
            raise

    def _open(self) -> Any:
        if self._channel is None:
            address, secure = self._addresses[self._at]
            self._channel = (
                grpc.secure_channel(address, self._credentials, options=self._options)
                if secure
                else grpc.insecure_channel(address, options=self._options)
            )
        return self._channel

    def _translated(self, error: Any) -> StoreError:
        translated = translate(error)
        if isinstance(translated, Unavailable | NotTrusted) and len(self._addresses) > 1:
            self._at = (self._at + 1) % len(self._addresses)
            self.close()
        return translated

    def close(self) -> None:
        """Calls on a closed channel end at once."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
