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

if TYPE_CHECKING:
    from registry.etcd.store import EtcdSettings

MOST_S: Final = 2.0
"""For one member: those that answer do it at once."""
_QUOTA: Final = re.compile(rb"^etcd_server_quota_backend_bytes (\S+)$", re.MULTILINE)
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of etcd, as it answered."""

    url: str
    version: str = ""
    error: str = ""
    """Why it did not answer; empty: it did."""
    size_bytes: int = 0
    in_use_bytes: int = 0
    quota_bytes: int | None = None
    """None: it does not tell."""
    alarms: tuple[str, ...] = ()
    ahead_s: float | None = None
    """By how much its clock is before this host's; None: it does not tell."""


async def members(settings: EtcdSettings, *, more: bool = False) -> tuple[Member, ...]:
    """How each endpoint answers, in their order. `more`: also its clock and its quota."""
    import trio

    found: dict[str, Member] = {}

    async def one(url: str) -> None:
        member = await _asked(settings, url)
        if more and not member.error and not settings.proxy:
            clock, quota = await trio.to_thread.run_sync(_over_http, settings, url, abandon_on_cancel=True)
            member = msgspec.structs.replace(member, ahead_s=clock, quota_bytes=quota)
        found[url] = member

    async with trio.open_nursery() as nursery:
        for url in settings.endpoints:
            nursery.start_soon(one, url)
    return tuple(found[url] for url in settings.endpoints)


async def _asked(settings: EtcdSettings, url: str) -> Member:
    from registry.etcd.store import EtcdStore
    from registry.store import StoreError

    alone = msgspec.structs.replace(settings, endpoints=(url,), timeout_s=min(MOST_S, settings.timeout_s))
    try:
        async with EtcdStore.open(alone) as store:
            told = await store.status()
    except (StoreError, OSError, ValueError) as error:  # a certificate that cannot be read is a reason, too
        return Member(url=url, error=str(error))
    return Member(
        url=url,
        version=told.version,
        size_bytes=told.size_bytes,
        in_use_bytes=told.in_use_bytes,
        alarms=told.errors,
    )


def _over_http(settings: EtcdSettings, url: str) -> tuple[float | None, int | None]:
    """Its clock (s before ours; whole seconds are all that it tells), and its quota; None where it does not tell."""
    try:
        began = time.time()
        date, _ = _page(settings, url, "/version")
        ahead_s = email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - (began + time.time()) / 2
    except (OSError, ValueError, http.client.HTTPException):
        return None, None
    try:
        _, metrics = _page(settings, url, "/metrics")
    except (OSError, http.client.HTTPException):
        return ahead_s, None
    told = _QUOTA.search(metrics)
    return ahead_s, int(float(told[1])) if told else None


def _page(settings: EtcdSettings, url: str, path: str) -> tuple[str, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = http.client.HTTPConnection(host, port, timeout=MOST_S)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key or None)
        connection = http.client.HTTPSConnection(host, port, timeout=MOST_S, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.getheader("Date", ""), answer.read(MAX_PAGE_BYTES)
    finally:
        connection.close()
