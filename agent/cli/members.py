"""Asks each endpoint of etcd by itself: over gRPC what it says of itself, over HTTP what only that tells."""

from __future__ import annotations

import email.utils
import http.client
import re
import ssl
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from agent.cli.etcd_client import settings_of
from agent.cli.findings.facts import Member

if TYPE_CHECKING:
    from agent.cli.options import Options

MOST_S: Final = 2.0
"""For one member: those that answer do it at once."""
_QUOTA: Final = re.compile(rb"^etcd_server_quota_backend_bytes (\S+)$", re.MULTILINE)
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024


async def members(options: Options, *, more: bool = False) -> tuple[Member, ...]:
    """How each endpoint answers, in their order. `more`: also its clock and its quota."""
    import trio

    found: dict[str, Member] = {}

    async def one(url: str) -> None:
        member = await _asked(options, url)
        if more and not member.error and not options.proxy:
            clock, quota = await trio.to_thread.run_sync(_over_http, options, url, abandon_on_cancel=True)
            member = msgspec.structs.replace(member, ahead_s=clock, quota_bytes=quota)
        found[url] = member

    async with trio.open_nursery() as nursery:
        for url in options.etcd:
            nursery.start_soon(one, url)
    return tuple(found[url] for url in options.etcd)


async def _asked(options: Options, url: str) -> Member:
    from registry.etcd.store import EtcdStore
    from registry.store import StoreError

    alone = msgspec.structs.replace(settings_of(options), endpoints=(url,), timeout_s=min(MOST_S, options.timeout_s))
    try:
        async with EtcdStore.open(alone) as store:
            told = await store.status()
    except StoreError as error:
        return Member(url=url, error=str(error))
    return Member(
        url=url,
        version=told.version,
        size_bytes=told.size_bytes,
        in_use_bytes=told.in_use_bytes,
        alarms=told.errors,
    )


def _over_http(options: Options, url: str) -> tuple[float | None, int | None]:
    """Its clock (s before ours; whole seconds are all that it tells), and its quota; None where it does not tell."""
    try:
        began = time.time()
        date, _ = _page(options, url, "/version")
        ahead_s = email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - (began + time.time()) / 2
    except (OSError, ValueError, http.client.HTTPException):
        return None, None
    try:
        _, metrics = _page(options, url, "/metrics")
    except (OSError, http.client.HTTPException):
        return ahead_s, None
    told = _QUOTA.search(metrics)
    return ahead_s, int(float(told[1])) if told else None


def _page(options: Options, url: str, path: str) -> tuple[str, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = http.client.HTTPConnection(host, port, timeout=MOST_S)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=options.ca or None)
        if options.certificate:
            context.load_cert_chain(options.certificate, options.key or None)
        connection = http.client.HTTPSConnection(host, port, timeout=MOST_S, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.getheader("Date", ""), answer.read(MAX_PAGE_BYTES)
    finally:
        connection.close()
