"""Whose request it is, by where it came from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.ratelimit.address import client_of, network
from policies.request import Request


@pytest.mark.parametrize(
    ("forwarded", "address", "hops", "client"),
    [
        (None, "192.0.2.1", 0, "192.0.2.1"),
        ("198.51.100.1", "192.0.2.1", 0, "192.0.2.1"),
        ("198.51.100.1", "192.0.2.1", 1, "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1", "192.0.2.1", 1, "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1", "192.0.2.1", 2, "203.0.113.9"),
        ("203.0.113.9", "192.0.2.1", 2, "192.0.2.1"),
        ("203.0.113.9, 198.51.100.1", "", 0, "198.51.100.1"),
        ("203.0.113.9, 198.51.100.1", "", 1, "203.0.113.9"),
        (",, 198.51.100.1 ,", "192.0.2.1", 1, "198.51.100.1"),
        (None, "192.0.2.1", 3, "192.0.2.1"),
        (None, "", 0, ""),
    ],
)
def test_the_place_that_is_believed(forwarded: str | None, address: str, hops: int, client: str) -> None:
    """Counted from the end: what comes before it, anybody may have written."""
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert client_of(Request(headers=headers, address=address), hops) == client


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("_hidden:80", "_hidden:80"),
    ],
)
def test_one_spelling_for_one_client(text: str, one: str) -> None:
    """With a port or without; what is no address stays."""
    assert network(text) == one


@given(st.text(max_size=60), st.text(max_size=20), st.integers(0, 16))
def test_nothing_is_too_strange(forwarded: str, address: str, hops: int) -> None:
    """A header is a stranger's."""
    assert isinstance(client_of(Request(headers={"x-forwarded-for": forwarded}, address=address), hops), str)
