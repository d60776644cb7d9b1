"""Requests to where documents say: only to what may be called, and no more of the answer than is allowed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from agent.control.outgoing.client import Answer, Client, Failure
from agent.hooks.targets import Targets
from tests.support.issuer import Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer()
    yield found
    found.close()


def client(*allow: str) -> Client:
    return Client(Targets(allow, "authn.allow"), ssl.create_default_context())


async def ask(client: Client, url: str, *, named: bool = False) -> Answer | Failure:
    return await client.ask("GET", url, {}, within_s=30, most_bytes=1000, named=named)


async def test_only_what_may_be_called_is(issuer: Issuer) -> None:
    """This host may be when the settings say so, and the refusal names the setting."""
    found = await ask(client(), issuer.jwks_url)
    assert isinstance(found, Failure) and not found.again and "authn.allow" in found.reason
    assert issuer.asked == []
    found = await ask(client("localhost"), issuer.jwks_url)
    assert isinstance(found, Answer) and found.status == 200 and found.whole and b"keys" in found.body


async def test_a_redirect_is_an_answer(issuer: Issuer) -> None:
    """Where it leads was not judged."""
    issuer.behave = lambda path: (302, {"location": "http://169.254.169.254/latest/meta-data/"}, b"")
    found = await ask(client("localhost"), issuer.jwks_url)
    assert isinstance(found, Answer) and found.status == 302 and len(issuer.asked) == 1


@pytest.mark.parametrize(("size", "whole"), [(1000, True), (1001, False)])
async def test_no_more_is_read_than_is_allowed(issuer: Issuer, size: int, whole: bool) -> None:
    """And whoever asked is told that there was more."""
    issuer.behave = lambda path: (200, {}, b"x" * size)
    found = await ask(client("localhost"), issuer.jwks_url)
    assert isinstance(found, Answer) and len(found.body) == 1000 and found.whole is whole


async def test_what_is_far_too_much_is_not_read(issuer: Issuer) -> None:
    """10 MiB, where 1,000 bytes are wanted."""
    issuer.behave = lambda path: (200, {}, b"x" * (10 << 20))
    found = await ask(client("localhost"), issuer.jwks_url)
    assert isinstance(found, Failure) and "without end" in found.reason


def test_what_has_to_be_named_is_not_reached_by_being_public() -> None:
    """Of plain HTTP nobody knows who answers, so the settings have to say where."""
    targets = Targets(["issuer.example"], "authn.allow")
    assert targets.refused("login.example", "9.9.9.9") is None
    refused = targets.refused("login.example", "9.9.9.9", named=True)
    assert refused is not None and "not named" in refused and "authn.allow" in refused
    assert targets.refused("issuer.example", "9.9.9.9", named=True) is None
