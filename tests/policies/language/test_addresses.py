"""Addresses have one reading, and ranges hold what they say."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.language.addresses import Ranges, check_range, parsed

NETWORKS = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda it: ipaddress.ip_network((it[0], it[1]), strict=False)
    ),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
        lambda it: ipaddress.ip_network((it[0], it[1]), strict=False)
    ),
).filter(lambda it: it.version == 4 or int(it.network_address) >> 32 != 0xFFFF)


@given(ranges=st.lists(NETWORKS, max_size=5), address=st.ip_addresses())
def test_a_set_has_what_is_in_one_of_its_ranges(
    ranges: list[ipaddress.IPv4Network], address: ipaddress.IPv4Address
) -> None:
    """As the standard library says, however the address is written."""
    found = Ranges(map(str, ranges))
    plain = parsed(str(address))
    assert plain is not None
    wanted = any(plain.version == each.version and plain in each for each in ranges)
    assert found.has(str(address)) is wanted
    if plain.version == 4:
        assert found.has(f"::ffff:{plain}") is found.has(f"{plain}:4711") is wanted
    assert found.empty is (not ranges)
    first = [str(each.network_address) for each in ranges]
    assert all(found.has(each) for each in first)


@pytest.mark.parametrize(
    "text", ["", "unknown", "_hidden", "10.0.0", "10.0.0.0.1", "::1::", "a:b", "10.0.0.7, 1.2.3.4", "0x7f.1"]
)
def test_what_is_no_address_is_in_no_set(text: str) -> None:
    """Not in the one that has all of them either."""
    assert parsed(text) is None
    assert not Ranges(["0.0.0.0/0", "::/0"]).has(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.7/8", "bits set behind its prefix"),
        ("10.0.0.0/33", "no range of addresses"),
        ("office", "no range of addresses"),
        ("::ffff:10.0.0.0/104", "written as such"),
    ],
)
def test_what_is_no_range_is_refused(text: str, said: str) -> None:
    """With what would be right."""
    with pytest.raises(ValueError, match=said):
        check_range(text)
