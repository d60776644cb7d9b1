"""`egress`: which hosts outside the mesh may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.egress.decide import compile, destination, hands_out_credentials
from policies.kinds.egress.document import Egress, split
from policies.request import Request


def passes(host: str, *allow: str) -> bool:
    document = Egress(allow=allow)
    document.check()
    return compile(document).decide(Request(headers={"host": host})) is None


@pytest.mark.parametrize(
    ("host", "allow"),
    [
        ("api.example.com", "api.example.com"),
        ("API.example.com.", "api.example.com"),
        ("api.example.com:8080", "api.example.com"),
        ("api.example.com", "API.Example.com:80"),
        ("api.example.com:8080", "api.example.com:8080"),
        ("a.b.example.com", "*.example.com"),
        ("a.example.com:81", "*.example.com:81"),
        ("192.0.2.1:9", "192.0.2.1"),
        ("[2001:DB8::1]", "[2001:db8:0::1]"),
        ("anything", "*"),
        ("anything:81", "*:81"),
        ("169.254.169.254", "169.254.169.254"),
        ("[fe80::1]:81", "[fe80::1]:81"),
    ],
)
def test_what_passes(host: str, allow: str) -> None:
    """In whatever spelling."""
    assert passes(host, "other.example.net", allow)


@pytest.mark.parametrize(
    ("host", "allow"),
    [
        ("example.com", "*.example.com"),
        ("api.example.com.evil.net", "*.example.com"),
        ("evilexample.com", "*.example.com"),
        ("api.example.com:81", "api.example.com:80"),
        ("api.example.com:8080", "*.example.com:80"),
        ("192.0.2.10", "192.0.2.1"),
        ("169.254.169.254", "*"),
        ("169.254.169.254:81", "169.254.169.254:80"),
        ("[fe80::1]", "*"),
        ("[::ffff:169.254.169.254]", "*"),
        ("[fd00:ec2::254]", "*"),
        ("100.100.100.200", "*:80"),
        ("*", "*"),
        ("*.example.com", "*.example.com"),
        ("api.example.com:99999", "*"),
        ("", "*"),
    ],
)
def test_what_is_refused(host: str, allow: str) -> None:
    """Metadata by `*` too."""
    assert not passes(host, allow)


def test_nothing_is_allowed_by_an_empty_list() -> None:
    """And who is refused hears which host."""
    denied = compile(Egress(allow=())).decide(Request(headers={"host": "API.example.com"}))
    assert denied is not None
    assert (denied.status, denied.reason) == (403, "api.example.com:80 is outside the mesh, and not in $.allow")


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_said_to_be_none(text: str) -> None:
    """Never anything else; and one form is read as itself."""
    try:
        name, port = split(text)
    except ValueError as error:
        assert "is no host" in str(error) or "has no port" in str(error)
        return
    written = f"[{name}]" if ":" in name else name
    assert split(f"{written}:{port}" if port else written) == (name, port)


@given(st.integers(min_value=0, max_value=2**16 - 1))
def test_all_of_link_local_hands_out_credentials(number: int) -> None:
    """And no name does by itself."""
    assert hands_out_credentials(f"169.254.{number >> 8}.{number & 255}")
    assert not hands_out_credentials(f"168.254.{number >> 8}.{number & 255}")
    assert not hands_out_credentials(f"h{number}.example.com")


def test_a_host_has_a_port() -> None:
    """That of HTTP where none is said."""
    assert destination("api.example.com") == ("api.example.com", 80)
    assert destination("[::1]:81") == ("::1", 81)
