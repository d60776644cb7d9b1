"""A small real server of SPIFFE's Workload API, on a Unix socket: what SPIRE's agent serves, given out by a test."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from agent.control.identity.workload.api import METHOD, RESPONSE
from agent.identity.spiffe import SpiffeId
from registry.etcd.stream import grpc
from tests.support.identity import Authority, der, key


def key_der(name: str) -> bytes:
    """Somebody's private key, PKCS#8."""
    return key(name).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def response(authority: Authority, *identities: SpiffeId, federated: tuple[Authority, ...] = (), **terms: Any) -> bytes:
    """What is given at once: an SVID for each, as long as `terms` say."""
    message = RESPONSE()
    roots = b"".join(der([authority.root.certificate]))
    for identity in identities:
        chain = b"".join(der(authority.svid(identity, **terms)))
        message.svids.add(spiffe_id=str(identity), x509_svid=chain, x509_svid_key=key_der(str(identity)), bundle=roots)
    for other in federated:
        message.federated_bundles[f"spiffe://{other.trust_domain}"] = b"".join(der([other.root.certificate]))
    return bytes(message.SerializeToString())


class WorkloadApi:
    """What it gives to everybody who asks; with every `give` those who listen hear it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = 0
        self.unasked = 0
        """Calls without the metadata that the standard wants."""
        self.denied = ""
        """Why nobody gets anything; empty: who asks does."""
        self._now = b""
        self._listeners: list[queue.SimpleQueue[bytes | None]] = []
        self._lock = threading.Lock()
        self._server: Any = None

    def give(self, response: bytes) -> None:
        """From now on, and to those who listen already."""
        with self._lock:
            self._now = response
            for each in self._listeners:
                each.put(response)

    @property
    def listening(self) -> int:
        """Streams that are open."""
        return len(self._listeners)

    def start(self) -> None:
        """Listen."""
        self._server = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.unary_stream_rpc_method_handler(self._fetch)
        service, method = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        assert self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """Gone, with all streams."""
        with self._lock:
            for each in self._listeners:
                each.put(None)
        self._server.stop(0).wait()

    def _fetch(self, _: bytes, context: Any) -> Iterator[bytes]:
        self.asked += 1
        if ("workload.spiffe.io", "true") not in [tuple(each) for each in context.invocation_metadata()]:
            self.unasked += 1
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if self.denied:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, self.denied)
        heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self._lock:
            self._listeners.append(heard)
            if self._now:
                heard.put(self._now)
        context.add_callback(lambda: heard.put(None))
        try:
            while (given := heard.get()) is not None:
                yield given
        finally:
            with self._lock:
                self._listeners.remove(heard)


@contextmanager
def serving(path: Path) -> Iterator[WorkloadApi]:
    """Until the end of the block."""
    api = WorkloadApi(path)
    api.start()
    try:
        yield api
    finally:
        api.stop()
