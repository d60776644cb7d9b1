"""Spellings of one place have one form."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.language.normal_path import is_plain, normal

PIECES = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2f",
        "%5C",
        "\\",
        ";",
        ";v=1",
        "a",
        "%61",
        "%c3%A9",
        "%25",
        "%2",
        "%",
        "%32",
        "e",
        "~",
        "@",
    ]
)
TARGETS = st.lists(PIECES, max_size=12).map(lambda pieces: ("/" + "".join(pieces)).encode())


@pytest.mark.parametrize(
    ("sent", "passed_on", "judged"),
    [
        ("/x/../admin", "/admin", "/admin"),
        ("/x/%2e%2E/admin", "/admin", "/admin"),
        ("/./admin/.", "/admin/", "/admin/"),
        ("/../../admin", "/admin", "/admin"),
        ("/a/..", "/", "/"),
        ("//admin///x//", "/admin/x/", "/admin/x/"),
        ("/a//../admin", "/admin", "/admin"),
        ("/%61dm%69n", "/admin", "/admin"),
        ("/%7euser/%2D%5f", "/~user/-_", "/~user/-_"),
        ("/caf%c3%a9%2b", "/caf%C3%A9%2B", "/caf%C3%A9%2B"),
        ("/%2561", "/%2561", "/%2561"),
        ("/100%", "/100%25", "/100%25"),
        ("/a%zz%2", "/a%25zz%252", "/a%25zz%252"),
        ("/%%32%66", "/%252f", "/%252f"),
        ("/\\admin\\x", "/admin/x", "/admin/x"),
        ("/x\\..\\admin", "/admin", "/admin"),
        ("/admin;v=1/x;y", "/admin;v=1/x;y", "/admin/x"),
        ("/;v/admin", "/admin", "/admin"),
        ("/x/..;/admin", "/admin", "/admin"),
        ("/x/..%2fadmin", "/admin", "/admin"),
        ("/x/..%5cadmin", "/admin", "/admin"),
        ("/x%2F..%2Fadmin", "/admin", "/admin"),
        ("/x/..;%2fadmin", "/admin", "/admin"),
        ("/a%2fb", "/a%2Fb", "/a%2Fb"),
        ("/a?b=//%61;c", "/a?b=//%61;c", "/a"),
        ("//a?/../b", "/a?/../b", "/a"),
    ],
)
def test_spellings_of_one_place(sent: str, passed_on: str, judged: str) -> None:
    """What is passed on, and what rules judge."""
    found = normal(sent.encode())
    assert (found.target.decode(), found.place.decode()) == (passed_on, judged)


@pytest.mark.parametrize(
    "target", ["/", "/pets/7", "/.well-known/x", "/a..b/...", "/a%20b%2Bc", "/x?a=%61;//", "/~u/-._", "/a%25"]
)
def test_the_usual_is_plain(target: str) -> None:
    """Nothing is done about it."""
    assert is_plain(target.encode())


@given(TARGETS)
def test_a_normal_form_is_its_own(target: bytes) -> None:
    """And in what is judged there is nothing left that has another spelling."""
    found = normal(target)
    again = normal(found.target)
    assert (again.target, again.place) == (found.target, found.place)
    assert is_plain(found.place) or re.search(rb"%(2F|5C)", found.place)
    assert not {b".", b".."} & set(re.split(rb"/|%2F|%5C", found.place))


@given(TARGETS)
def test_what_is_plain_is_normal(target: bytes) -> None:
    """The scan overlooks nothing."""
    if is_plain(target):
        found = normal(target)
        assert found.target == found.place == target


@given(TARGETS)
def test_decoded_slashes_are_slashes(target: bytes) -> None:
    """None is left."""
    found = normal(target, decode_slashes=True)
    assert not re.search(rb"%(2F|5C)|//", found.place)
