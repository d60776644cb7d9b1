"""What policies may ask of a request, on its plain form."""

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.request import Request, cookie, query_parameter


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sid=1", "1"),
        ("a=0; sid=1; sid=2", "1"),
        ('sid="1"', "1"),
        ("sid=a=b", "a=b"),
        ("sid=", ""),
        ("a=0,  sid=1", "1"),
        ("asid=1; sidb=2; sid", None),
        ("", None),
    ],
)
def test_the_first_cookie_of_a_name_counts(field: str, value: str | None) -> None:
    """By RFC 6265, also when fields were joined by a comma."""
    assert cookie(Request(headers={"Cookie": field}), "sid") == value


def test_without_cookies_there_is_none() -> None:
    """No field, no cookie."""
    assert cookie(Request(), "sid") is None


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=8), max_size=4))
def test_parameters_are_decoded(parameters: dict[str, str]) -> None:
    """Whatever was encoded comes back."""
    request = Request(target="/?" + urlencode(parameters))
    for name, value in parameters.items():
        assert query_parameter(request, name) == value
    assert query_parameter(request, "no such name") is None


def test_headers_are_found_whatever_their_case() -> None:
    """And claims only where there are verified ones."""
    request = Request(headers={"X-User": "ann"}, claims={"sub": "ann"})
    assert request.header("x-user") == "ann"
    assert request.claim("sub") == "ann"
    assert Request(headers={"sub": "ann"}).claim("sub") is None
