"""The Workload API (github.com/spiffe/spiffe, standards/SPIFFE_Workload_API.md): FetchX509SVID, over a Unix socket.

Law: gRPC's blocking stream is read in one thread, which ends before `fetch` does, however that ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import trio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from agent.identity.workload import Offered
from registry.etcd.stream import grpc

METHOD: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
_METADATA: Final = (("workload.spiffe.io", "true"),)
"""By which the API knows that nobody has been tricked into asking (its section 4.1)."""
_OPTIONS: Final = (
    ("grpc.default_authority", "localhost"),  # for a path Go's servers refuse what gRPC makes of it
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class NotServed(Exception):
    """Why the Workload API gives nothing, in words."""


async def fetch(socket: str, arrived: Callable[[bytes], None]) -> None:
    """Hand over each response as it comes (`read` reads it), until cancelled. Raises NotServed when the stream ends."""
    with grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
        call = channel.unary_stream(METHOD)(b"", metadata=_METADATA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_cancelled, call)
            reason = await trio.to_thread.run_sync(_drain, call, arrived, limiter=trio.CapacityLimiter(1))
            nursery.cancel_scope.cancel()
    raise NotServed(reason)


async def _until_cancelled(call: Any) -> None:
    try:
        await trio.sleep_forever()
    finally:
        call.cancel()


def _drain(call: Any, arrived: Callable[[bytes], None]) -> str:
    """In the thread: why the stream has ended."""
    try:
        responses: Iterator[bytes] = call
        for response in responses:
            trio.from_thread.run_sync(arrived, response)
    except grpc.RpcError as error:
        code = error.code()
        said = (error.details() or "").strip()[:300]
        return f"{code.name.lower().replace('_', ' ')}: {said}" if code is not None else said
    return "it ended the stream"


def _described() -> Any:
    """workload.proto, of what is read here."""
    field = descriptor_pb2.FieldDescriptorProto
    proto = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    svid = proto.message_type.add(name="X509SVID")
    svid.field.add(name="spiffe_id", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    for number, name in enumerate(("x509_svid", "x509_svid_key", "bundle"), 2):
        svid.field.add(name=name, number=number, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    response = proto.message_type.add(name="X509SVIDResponse")
    several = {"type": field.TYPE_MESSAGE, "label": field.LABEL_REPEATED}
    response.field.add(name="svids", number=1, type_name=".X509SVID", **several)
    response.field.add(
        name="federated_bundles", number=3, type_name=".X509SVIDResponse.FederatedBundlesEntry", **several
    )
    entry = response.nested_type.add(name="FederatedBundlesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("X509SVIDResponse"))


RESPONSE: Final = _described()


def read(response: bytes) -> tuple[list[Offered], dict[str, bytes]]:
    """SVIDs in their order, and other trust domains' roots by their SPIFFE ids. Raises ValueError."""
    try:
        message = RESPONSE.FromString(response)
    except DecodeError as error:
        raise ValueError(f"no X509SVIDResponse: {error}") from None
    offered = [Offered(each.spiffe_id, each.x509_svid, each.x509_svid_key, each.bundle) for each in message.svids]
    return offered, dict(message.federated_bundles)
