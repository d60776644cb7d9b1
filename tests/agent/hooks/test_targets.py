"""Which addresses a hook may call."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.targets import Targets

INSIDE = [
    "127.0.0.1",
    "127.255.0.9",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "2001:db8::1",
    "64:ff9b:1::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2002:a00:1::1",
]
NEVER = ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.255.255.255", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"]
OUTSIDE = [
    "1.1.1.1",
    "140.82.112.3",
    "172.32.0.1",
    "172.15.255.255",
    "2606:4700::1111",
    "64:ff9b::1.1.1.1",
    "::ffff:1.1.1.1",
]


@pytest.mark.parametrize("address", [*INSIDE, *NEVER])
def test_the_inside_is_refused(address: str) -> None:
    """However it is written."""
    assert Targets().refused("x.example", address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_the_public_internet_is_not(address: str) -> None:
    """By default."""
    assert Targets().refused("x.example", address) is None


@pytest.mark.parametrize("address", ["", "x.example", "127.1", "2130706433", "0x7f000001", "1.1.1.1/32", "1.1.1.1 "])
def test_what_is_no_address_is_refused(address: str) -> None:
    """What was judged has to be what is called."""
    assert "is no address" in str(Targets().refused("x.example", address))


@pytest.mark.parametrize("address", NEVER)
def test_some_are_never_called(address: str) -> None:
    """Whatever the settings say."""
    assert Targets(["0.0.0.0/0", "::/0", "x.example"]).refused("x.example", address)


def test_ranges_allow_addresses() -> None:
    """Those, and no others."""
    targets = Targets(["10.1.0.0/16", "127.0.0.1", "fd00::/8"])
    assert targets.refused("a", "10.1.2.3") is None and targets.refused("a", "::ffff:10.1.2.3") is None
    assert targets.refused("a", "127.0.0.1") is None and targets.refused("a", "fd00::1") is None
    assert targets.refused("a", "10.2.0.1") and targets.refused("a", "127.0.0.2") and targets.refused("a", "::1")


def test_names_allow_what_they_resolve_to() -> None:
    """Exactly, or below; upper case and the root's dot mean nothing."""
    targets = Targets(["Hooks.internal", "*.corp.example"])
    assert targets.refused("hooks.INTERNAL.", "10.0.0.1") is None
    assert targets.refused("a.b.corp.example", "10.0.0.1") is None
    for host in ("corp.example", "evilcorp.example", "xhooks.internal", "a.hooks.internal", "corp.example.evil"):
        assert targets.refused(host, "10.0.0.1")


def test_the_reason_says_what_it_is_and_who_may_allow_it() -> None:
    """For whoever reads the log."""
    assert Targets().refused("meta.example", "169.254.169.254") == (
        "meta.example is 169.254.169.254, which is link-local; the agent's settings may allow it (hooks.allow)"
    )
    for host, address, said in (("127.0.0.1", "127.0.0.1", "127.0.0.1 is "), ("[::1]", "::1", "::1 is ")):
        assert str(Targets().refused(host, address)).startswith(said)
        assert f"is {address}" not in str(Targets().refused(host, address)), "which says nothing"


@pytest.mark.parametrize(
    "entry", ["", "10.0.0.1/8", "10.0.0.0/33", "a b", "http://x", "*", "*.", "127.1", "0x7f.1", "x/24", "1"]
)
def test_a_setting_that_is_none_is_refused(entry: str) -> None:
    """Rather than allow something that nobody meant."""
    with pytest.raises(ValueError, match=r"such as 10\.1\.0\.0/16 or hooks\.example\.com"):
        Targets([entry])


@given(st.ip_addresses())
def test_what_is_called_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Of any address: what the standard library calls private is refused."""
    if Targets().refused("x", str(address)) is None:
        assert not address.is_multicast and not address.is_loopback and not address.is_link_local
        assert address.is_global or address.version == 6


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_inside_of_an_ipv6_one(address: ipaddress.IPv4Address) -> None:
    """Mapped, by NAT64 and by 6to4."""
    plain = Targets().refused("x", str(address)) is None
    number = int(address)
    for wrapped in ((0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80)):
        assert (Targets().refused("x", str(ipaddress.IPv6Address(wrapped))) is None) == plain
