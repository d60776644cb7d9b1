"""An instance of this host has two names while its key moves to one that is the host's own, and is found by either."""

from __future__ import annotations

import pytest

from tests.support.proxy import always_ok, endpoint, running_proxy


@pytest.mark.parametrize(
    ("known", "named", "found"),
    [
        ("a", b"a", True),
        ("a", b"a@here", True),
        ("a@here", b"a", True),
        ("a@here", b"a@here", True),
        ("a", b"a@there", False),
        ("a@here", b"a@there", False),
        ("a", b"b", False),
        ("a", b"b@here", False),
        ("a", b"@here", False),
    ],
)
async def test_by_either_name(known: str, named: bytes, found: bool) -> None:
    """And another host's of the same id never is."""
    async with running_proxy() as proxy:
        proxy.worker.table.host = "here"
        proxy.put(endpoint(await proxy.upstream(always_ok), known, agent="here"))
        client = await proxy.client(inbound=True)
        await client.send(
            b"GET / HTTP/1.1\r\nHost: pets.production\r\nx-shoal-endpoint: pets.production/%b\r\n\r\n" % named
        )
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200" if found else b"HTTP/1.1 503"), head
        assert found or b"x-shoal-unsent" in head.lower()
