"""What goes over the wire to etcd, and its errors, in the words of the Store contract. Nothing here waits."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path
from typing import Any, Final

from registry.etcd.stream import grpc
from registry.etcd.stubs import load
from registry.store import (
    Change,
    Compacted,
    Compare,
    Delete,
    KeyValue,
    LeaseGone,
    NoSpace,
    NotTrusted,
    Put,
    Refused,
    StoreError,
    TooLarge,
    Unavailable,
)

_rpc, _ = load()

MAX_VALUE_BYTES: Final = 1_500_000
_CODES: Final = grpc.StatusCode


_TLS_FAULTS: Final = (
    ("certificate has expired", "etcd's certificate has expired"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "etcd's certificate is not of the authority that is trusted here; `ca` names its file",
    ),
    ("Hostname Verification", "etcd's certificate is for another address than this endpoint's"),
    ("CERTIFICATE", "etcd wants a client certificate (`cert` and `key`) of an authority that it trusts"),
    ("Unwrap failed", "etcd wants a client certificate (`cert` and `key`) of an authority that it trusts"),
    ("UNKNOWN_CA", "etcd does not trust the authority of our client certificate (`cert` and `key`)"),
)
"""What a failed handshake says, the particular before the general, and what is to be done."""
_STALE: Final = ("invalid auth token", "auth store is old", "revision in header is old", "user name is empty")


def translate(error: Any, about: str = "") -> StoreError:
    """gRPC's words in ours; `about` is what was asked for."""
    code = error.code()
    details = str(error.details() or code.name)
    if "requested lease not found" in details:
        return LeaseGone(details)
    if "required revision has been compacted" in details:
        return Compacted(0)
    if "space exceeded" in details:
        return NoSpace(f"etcd is full: {details}")
    if any(words in details for words in ("too large", "too many operations", "larger than max")):
        return TooLarge(details)
    if "user name is empty" in details:
        return Refused("etcd wants a user and a password")
    if code == _CODES.PERMISSION_DENIED and about:
        return Refused(f"etcd: {details}: {about}")
    if code in (_CODES.PERMISSION_DENIED, _CODES.UNAUTHENTICATED, _CODES.INVALID_ARGUMENT, _CODES.FAILED_PRECONDITION):
        return Refused(f"etcd: {details}")
    return _unavailable(details)


def _unavailable(details: str) -> StoreError:
    if any(words in details.lower() for words in ("handshake", "verification", "unwrap")):
        for words, meaning in _TLS_FAULTS:
            if words in details:
                return NotTrusted(f"{meaning} ({details})")
    if "Handshake read failed" in details:
        return Unavailable(f"etcd: no TLS is spoken there; is the endpoint http:// after all? ({details})")
    if "failed to connect" in details and "Socket closed" in details:
        return Unavailable(f"etcd: the connection was closed at once; is the endpoint https:// after all? ({details})")
    return Unavailable(f"etcd: {details}")


def keys_of(request: Any) -> str:
    """The first keys that a request is about: what a refusal does not say."""
    operations = getattr(request, "success", None)
    if operations is None:
        keys = [getattr(request, "key", b"")]
    else:
        keys = [operation.request_put.key or operation.request_delete_range.key for operation in operations]
    texts = [_text(key) for key in keys if key]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def is_stale_token(error: Any) -> bool:
    """Whether a call was refused for its token, or for having none, and not for what it asked."""
    details = error.details() or ""
    return error.code() == _CODES.UNAUTHENTICATED or any(words in details for words in _STALE)


def is_authentication_off(error: Any) -> bool:
    """Whether etcd has no users, or does not ask for them yet."""
    return "authentication is not enabled" in (error.details() or "")


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
    """What TLS goes by, from PEM files; "" is the system's authorities, or no certificate.

    Raises OSError, with the file, for what cannot be read or is of no use: gRPC would only never connect.
    """
    key = key or cert
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca_pem, key_pem, cert_pem = (Path(path).read_bytes() if path else None for path in (ca, key, cert))
    try:
        if ca:
            context.load_verify_locations(ca)
    except ssl.SSLError:
        raise OSError(errno.EINVAL, "no PEM certificate in it", ca) from None
    try:
        if cert:
            context.load_cert_chain(cert, key)
    except ssl.SSLError:
        raise OSError(errno.EINVAL, f"no PEM certificate in it, or none of the key in {key}", cert) from None
    return grpc.ssl_channel_credentials(ca_pem, key_pem, cert_pem)


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
    return Change(_text(kv.key), None if deleted else kv.value, kv.mod_revision, kv.create_revision)


def comparison(compare: Compare) -> Any:
    """A condition of a transaction."""
    if compare.create_revision is not None:
        return _rpc.Compare(
            key=bytes_of(compare.key),
            range_end=bytes_of(compare.end),
            target=_rpc.Compare.CREATE,
            result=_rpc.Compare.EQUAL,
            create_revision=compare.create_revision,
        )
    return _rpc.Compare(
        key=bytes_of(compare.key),
        range_end=bytes_of(compare.end),
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
