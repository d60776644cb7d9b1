"""What goes over the wire to etcd, and its errors, in the words of the Store contract. Nothing here waits."""

from __future__ import annotations

from typing import Any, Final

from registry.store import (
    Change,
    Compacted,
    Compare,
    Delete,
    KeyValue,
    LeaseGone,
    Put,
    Refused,
    StoreError,
    TooLarge,
    Unavailable,
)
from registry.stream import grpc
from registry.stubs import load

_rpc, _ = load()

MAX_VALUE_BYTES: Final = 1_500_000
_CODES: Final = grpc.StatusCode


def translate(error: Any) -> StoreError:
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


def address_of(endpoint: str) -> tuple[str, bool]:
    """`host:port`, and whether TLS is spoken there. Raises ValueError."""
    scheme, separator, rest = endpoint.rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"{endpoint!r}: an etcd endpoint is http://host:port or https://host:port")
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"{endpoint!r}: an etcd endpoint has a host and a port, such as http://127.0.0.1:2379")
    return f"{host}:{port}", scheme == "https"


def credentials(ca: str, cert: str, key: str) -> Any:
    """What TLS goes by, from PEM files; "" is the system's authorities, or no certificate."""

    def read(path: str) -> bytes | None:
        if not path:
            return None
        with open(path, "rb") as file:
            return file.read()

    return grpc.ssl_channel_credentials(read(ca), read(key), read(cert))


def check_size(key: str, value: bytes) -> None:
    """Raises TooLarge for what etcd would not take."""
    if len(value) > MAX_VALUE_BYTES:
        raise TooLarge(f"{key}: {len(value)} bytes; etcd takes up to {MAX_VALUE_BYTES}")


def bytes_of(key: str) -> bytes:
    """A key as etcd has it; keys that are no UTF-8 survive there and back."""
    return key.encode("utf-8", "surrogateescape")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def key_value(kv: Any) -> KeyValue:
    """A key as it stands."""
    return KeyValue(_text(kv.key), kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease)


def change_of(event: Any) -> Change:
    """An event of a watch."""
    kv = event.kv
    deleted = event.type == _rpc.Event.DELETE
    return Change(_text(kv.key), None if deleted else kv.value, kv.mod_revision)


def comparison(compare: Compare) -> Any:
    """A condition of a transaction."""
    if compare.create_revision is not None:
        return _rpc.Compare(
            key=bytes_of(compare.key),
            target=_rpc.Compare.CREATE,
            result=_rpc.Compare.EQUAL,
            create_revision=compare.create_revision,
        )
    return _rpc.Compare(
        key=bytes_of(compare.key),
        target=_rpc.Compare.MOD,
        result=_rpc.Compare.EQUAL,
        mod_revision=compare.mod_revision or 0,
    )


def operation(asked: Put | Delete) -> Any:
    """An operation of a transaction. Raises TooLarge."""
    if isinstance(asked, Put):
        check_size(asked.key, asked.value)
        put = _rpc.PutRequest(key=bytes_of(asked.key), value=asked.value, lease=asked.lease)
        return _rpc.RequestOp(request_put=put)
    return _rpc.RequestOp(request_delete_range=_rpc.DeleteRangeRequest(key=bytes_of(asked.key)))
