"""Checks of instances that speak TLS themselves, as real servers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from agent.control.host.own_ports import OwnPorts
from agent.control.host.programs import Programs
from agent.control.instances.checks import Means, Subject, Verdict, check
from agent.control.instances.client_certificates import ClientCertificates
from agent.control.instances.origins import OriginsHere
from agent.settings.document import health_policy
from policies.kinds.tls.document import Origin
from registry.records import Instance
from tests.support.web_pki import NAME, certificate, kept, root, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready"


class Documents:
    """What says of one service that its instances speak TLS."""

    def __init__(self, **fields: Any) -> None:
        self.said: Origin | None = msgspec.convert({"speaks": "tls", "name": NAME, "ca": root(), **fields}, Origin)

    def origin(self, service: str) -> Origin | None:
        return self.said if service == "pets.production" else None


@asynccontextmanager
async def instance(context: ssl.SSLContext | None, answer: bytes = OK) -> AsyncIterator[int]:
    """A server; None: of plain text."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                where: Any = stream
                if context is not None:
                    where = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
                while context is not None and b"\r\n\r\n" not in (heard := await where.receive_some(65536)):
                    if not heard:
                        return
                if context is None:
                    await where.receive_some(65536)
                await where.send_all(answer)
                await where.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the check has seen enough

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def found(
    port: int, documents: Documents, folder: Path, service: str = "pets.production", own: int = 0, **rule: Any
) -> Verdict:
    """What a check comes to. `own`: the instance's port, where the check names another one."""
    means = Means(Programs(), OwnPorts(), origins=OriginsHere(documents, ClientCertificates(folder)))
    subject = Subject(service, "a", Instance(address="127.0.0.1", port=own or port))
    verdict = await check(subject, health_policy({"timeout": "5s", **(rule or {"http": {}})}), means)
    assert isinstance(verdict, Verdict)
    return verdict


async def test_it_is_asked_by_tls(tmp_path: Path) -> None:
    """A request, a connection, and what a connection says."""
    async with instance(server_context(tmp_path)) as port:
        assert await found(port, Documents(), tmp_path) == Verdict(
            True, f"https://127.0.0.1:{port}/health answered 200"
        )
        told = f"127.0.0.1:{port} accepts connections, and is {NAME}"
        assert await found(port, Documents(), tmp_path, tcp={}) == Verdict(True, told)
        said = {"send": "GET / HTTP/1.1\r\n\r\n", "expect": "ready"}
        assert (await found(port, Documents(), tmp_path, tcp=said)).ok


@pytest.mark.parametrize("rule", [{"http": {}}, {"tcp": {}}])
@pytest.mark.parametrize(
    ("shown", "fields", "why"),
    [
        (certificate("db.example"), {}, "Hostname mismatch, certificate is not valid for 'db.internal'"),
        (certificate(NAME, above="another"), {}, "unable to get local issuer certificate"),
        (certificate(NAME, since_s=-20.0, until_s=-10.0), {}, "certificate has expired"),
        (None, {}, "TLS: "),
    ],
)
async def test_who_is_not_the_one_is_not_healthy(
    tmp_path: Path, rule: dict[str, Any], shown: bytes | None, fields: dict[str, Any], why: str
) -> None:
    """In the words that requests get; nothing of what was read is in them."""
    context = server_context(tmp_path, shown) if shown is not None else None
    async with instance(context, b"HTTP/1.1 400 Bad Request\r\n\r\n\r\n\r\n") as port:
        verdict = await found(port, Documents(**fields), tmp_path, **rule)
        assert not verdict.ok and why in verdict.reason, verdict


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    """The one that requests show; without it nothing is asked, and the reason says why."""
    async with instance(server_context(tmp_path, clients=root())) as port:
        documents = Documents(client_certificate=True)
        folder = tmp_path / "shown"
        folder.mkdir()
        verdict = await found(port, documents, folder)
        assert not verdict.ok and "this host has no client certificate for pets.production" in verdict.reason
        kept(folder / "pets.production.pem", certificate("our host", []))
        assert (await found(port, documents, folder)).ok
        kept(folder / "pets.production.pem", certificate("our host", []), 0o644)
        verdict = await found(port, documents, folder)
        assert not verdict.ok and "may be read or written by others (0644)" in verdict.reason


async def test_other_ports_and_other_services_are_plain_text(tmp_path: Path) -> None:
    """A document says it of a service's own port."""
    async with instance(None) as port:
        assert (await found(port, Documents(), tmp_path, own=1, http={"port": port})).ok
        assert (await found(port, Documents(), tmp_path, service="vets.production")).ok


async def test_a_document_counts_from_the_next_check_on(tmp_path: Path) -> None:
    """What it comes to is made once, and anew when it is another."""
    documents = Documents()
    origins = OriginsHere(documents, ClientCertificates(tmp_path))
    first = origins.of("pets.production")
    assert first is not None and origins.of("pets.production") is first
    documents.said = msgspec.structs.replace(documents.said, name="other.internal")
    second = origins.of("pets.production")
    assert not isinstance(second, str) and second is not None and second.name == "other.internal"
    documents.said = msgspec.convert({"speaks": "plain"}, Origin)
    assert origins.of("pets.production") is None
    documents.said = None
    assert origins.of("pets.production") is None and origins.of("vets") is None
