"""`log`: which requests have a record, and what may stand in it."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.catalogue import parse
from policies.kinds.log.decide import REDACTED, Compiled, compile
from policies.kinds.log.document import Log
from policies.language.document import Invalid
from policies.request import SECRET_HEADERS


def compiled(document: str) -> Compiled:
    found = parse("log", "pets.production", document.encode())
    assert isinstance(found, Log), found
    return compile(found)


@pytest.mark.parametrize(
    ("document", "status", "failed", "took_s", "target", "chance", "taken"),
    [
        ("{}", 200, False, 0.1, b"/", 0.999, True),
        ('{"share": 0.1}', 200, False, 0.1, b"/", 0.0999, True),
        ('{"share": 0.1}', 200, False, 0.1, b"/", 0.1, False),
        ('{"share": 0.1}', 503, False, 0.1, b"/", 0.9, True),
        ('{"share": 0.1}', 404, True, 0.1, b"/", 0.9, True),
        ('{"share": 0.1}', 404, False, 0.1, b"/", 0.9, False),
        ('{"share": 0.1, "statuses": [404, "3xx"]}', 404, False, 0.1, b"/", 0.9, True),
        ('{"share": 0.1, "statuses": [404, "3xx"]}', 301, False, 0.1, b"/", 0.9, True),
        ('{"share": 0.1, "statuses": [404, "3xx"]}', 500, False, 0.1, b"/", 0.9, False),
        ('{"share": 0.1, "statuses": ["404"]}', 404, False, 0.1, b"/", 0.9, True),
        ('{"share": 0.1, "slow": "200ms"}', 200, False, 0.2, b"/", 0.9, True),
        ('{"share": 0.1, "slow": "200ms"}', 200, False, 0.19, b"/", 0.9, False),
        ('{"requests": "errors"}', 200, False, 0.1, b"/", 0.0, False),
        ('{"requests": "errors"}', 0, True, 0.1, b"/", 0.0, True),
        ('{"requests": "none"}', 500, True, 9.0, b"/", 0.0, False),
        ('{"leave_out": ["/healthz", "/static/*"]}', 200, False, 0.1, b"/healthz?a=1", 0.0, False),
        ('{"leave_out": ["/healthz", "/static/*"]}', 200, False, 0.1, b"/healthz/x", 0.0, True),
        ('{"leave_out": ["/healthz", "/static/*"]}', 200, False, 0.1, b"/static/a.css", 0.0, False),
        ('{"leave_out": ["/healthz", "/static/*"]}', 500, False, 0.1, b"/healthz", 0.0, True),
    ],
)
def test_which_requests_are_recorded(
    document: str, status: int, failed: bool, took_s: float, target: bytes, chance: float, taken: bool
) -> None:
    """A share of those that went well; those that failed, or were slow, whole."""
    assert compiled(document).takes(status, failed, took_s, target, chance) is taken


@pytest.mark.parametrize(
    ("names", "target", "shown"),
    [
        (["token"], b"/a?token=secret&b=1", b"/a?token=[redacted]&b=1"),
        (["token"], b"/a?b=1&%74oken=secret", b"/a?b=1&%74oken=[redacted]"),
        (["a b"], b"/a?a+b=1&a%20b=2", b"/a?a+b=[redacted]&a%20b=[redacted]"),
        (["token"], b"/token=secret", b"/token=secret"),
        (["token"], b"/a?token", b"/a?[redacted]"),
        (["token"], b"/a?token=a=b", b"/a?token=[redacted]"),
        (["token"], b"/a?tokens=1&%zz=2", b"/a?tokens=1&%zz=2"),
        (["*"], b"/a?token=secret&word&=x", b"/a?token=[redacted]&[redacted]&=[redacted]"),
        (["*"], b"/a?", b"/a?"),
    ],
)
def test_values_of_the_query_are_left_out(names: list[str], target: bytes, shown: bytes) -> None:
    """By the name of their field, however that is spelt."""
    document = msgspec.json.encode({"redact_query": names}).decode()
    assert compiled(document).shown(target) == shown


@given(st.binary(max_size=60), st.sampled_from(["token", "*"]))
def test_whatever_a_query_is_no_secret_stays(query: bytes, name: str) -> None:
    """Bytes that nobody would send."""
    secret = b"s3cr3t!"
    found = compiled(f'{{"redact_query": ["{name}"]}}').shown(b"/a?" + query.replace(secret, b"") + b"&token=" + secret)
    assert secret not in found and REDACTED.encode() in found


def test_secrets_are_hidden_whatever_the_document_says() -> None:
    """And those that it names."""
    found = compiled('{"headers": ["Authorization", "X-Tenant", "X-Who"], "redact_headers": ["x-who"]}')
    assert found.headers == {b"authorization", b"x-tenant", b"x-who"}
    assert [name for name in sorted(found.headers) if found.hides(name)] == [b"authorization", b"x-who"]
    assert all(found.hides(name.encode()) for name in SECRET_HEADERS)


@given(st.text(max_size=80))
def test_what_is_no_document_is_refused_in_words(text: str) -> None:
    """Never with an exception."""
    assert isinstance(parse("log", "*", text.encode("utf-8", "replace")), Log | Invalid)


def test_a_share_is_a_share() -> None:
    """Of many requests."""
    rng, found = random.Random(7), compiled('{"share": 0.05}')
    taken = sum(found.takes(200, False, 0.1, b"/", rng.random()) for _ in range(20_000))
    assert 800 < taken < 1200
