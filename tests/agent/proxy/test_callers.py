"""Proxy credentials: what strangers make of them, too."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.proxy.messages.answers import Refusal, refusal_body, refusal_fields
from agent.proxy.table.callers import Callers
from tests.support.proxy import GET, Proxy, always_ok, endpoint, running_proxy

TOKENS = {hashlib.sha256(b"s3cret").hexdigest(): "web.production"}


def callers() -> Callers:
    found = Callers()
    found.configure(TOKENS)
    return found


def basic(credentials: bytes) -> bytes:
    return b"Basic " + base64.b64encode(credentials)


@pytest.mark.parametrize("credentials", [b"web.production:s3cret", b"web%2Eproduction:s3cret"])
def test_the_service_that_has_the_token(credentials: bytes) -> None:
    """As a client writes what stands in HTTP_PROXY; again it is one look-up."""
    known = callers()
    assert known.caller(basic(credentials)) == known.caller(basic(credentials)) == "web.production"


STRANGE = [
    "web.production:s3cr\u00e9t".encode(),
    "web.production:\u2603".encode(),
    b"web.production:%C3%A9",
    b"web.production:%ff%00",
    b"web.production:\x00",
    b"web.production:" + b"x" * 40_000,
    b"x" * 40_000 + b":s3cret",
    b"\xff\xfe:\x80",
    "s\u00e9rvice:s3cret".encode(),
    b":",
    b"",
]


@pytest.mark.parametrize("credentials", STRANGE)
def test_strange_credentials_are_refused(credentials: bytes) -> None:
    """407, in few words, whatever stands there; and nothing of it is remembered."""
    known = callers()
    refusal = known.caller(basic(credentials))
    assert isinstance(refusal, Refusal) and refusal.status == 407 and known._known == {}
    assert len(refusal_body(refusal, b"")) < 1000 and len(b"".join(refusal_fields(refusal))) < 1000


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=100).map(basic),
        st.text(max_size=50).map(lambda t: basic(quote(t).encode())),
    )
)
@example(b"Basic")
@example(b"Basic \xff")
@example(b"basic ====")
@example(basic(b"web.production:" + "\u00e9".encode()))
def test_no_credentials_are_too_strange(value: bytes) -> None:
    """Whatever a field's value can be, nobody is believed without the token."""
    assert isinstance(callers().caller(value), Refusal)


async def asked(proxy: Proxy, credentials: bytes) -> bytes:
    client = await proxy.client()
    return await client.ask(GET[:-2] + b"Proxy-Authorization: " + credentials + b"\r\n\r\n", b"\r\n\r\n")


async def test_a_token_that_is_not_ascii_is_a_407(caplog: pytest.LogCaptureFixture) -> None:
    """Answered as any wrong one, on a connection that lives."""
    async with running_proxy() as proxy:
        proxy.put(endpoint(await proxy.upstream(always_ok)))
        proxy.worker.callers.configure(TOKENS)
        for credentials in (*map(basic, STRANGE[:6]), b"Basic \xff\xfe", b"Basic ="):
            assert (await asked(proxy, credentials)).startswith(b"HTTP/1.1 407")
        assert (await asked(proxy, basic(b"web.production:s3cret"))).startswith(b"HTTP/1.1 200")
    assert caplog.records == []
